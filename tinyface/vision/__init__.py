"""From a photo to aligned faces: read it, find the faces, cut them out."""
