"""Every cap in one place.

Model files and pictures are hostile input: a number read from one of them is compared with a
cap from here before anything is allocated for it.
"""

from typing import Final

MiB: Final = 1 << 20
GiB: Final = 1 << 30

# pictures
MAX_PIXELS: Final = 51_000_000  # before decoding; what is sold as 50 megapixels is 8192 x 6144
MAX_JPEG_PIXELS: Final = 204_000_000  # of a baseline JPEG, decoded at a fraction of its size
MAX_IMAGE_BYTES: Final = 256 * MiB  # of the encoded file

# model files
MAX_HEADER_BYTES: Final = 8 * MiB  # JSON in front of the tensors
MAX_JSON_DEPTH: Final = 32
MAX_TENSORS: Final = 20_000
MAX_RANK: Final = 8
MAX_DIM: Final = 1 << 24
MAX_TENSOR_BYTES: Final = 1 * GiB
MAX_PARAM_BYTES: Final = 2 * GiB
MAX_NAME_LENGTH: Final = 512
MAX_PICKLE_BYTES: Final = 16 * MiB  # of a PyTorch checkpoint, without its tensors
MAX_PICKLE_OPS: Final = 2_000_000
MAX_ZIP_DIRECTORY_BYTES: Final = 8 * MiB

# graphs
MAX_NODES: Final = 10_000
MAX_OPERATIONS: Final = 10**12  # of one inference, as Op.operations counts them
MAX_NODE_OPERATIONS: Final = 2 * 10**11  # of one operator: what Ctrl-C may have to wait for
MAX_ARENA_BYTES: Final = 2 * GiB
MAX_KERNEL: Final = 1024  # side of a convolution or pooling window
MAX_STRIDE: Final = 1024
MAX_DILATION: Final = 1024
MAX_PAD: Final = 4096
MAX_INPUTS: Final = 1024  # of a concatenation; outputs of a split
MAX_BLOCK: Final = 32  # side of an interleave, or the like; stride of a transposed convolution
MAX_LRN: Final = 2048  # channels of a local response norm: its band is a matrix
MAX_PIECES: Final = 128  # rows, columns or windows of a map that importers write one by one
MAX_COPIES: Final = 64  # of a map, side by side
MAX_WRITTEN_BYTES: Final = 64 * MiB  # of weights that layers of ncnn have and their file has not
MAX_INDEX: Final = (1 << 31) - 1  # ends of a slice; larger ones mean "to the end"
MAX_FLOAT: Final = 3.4028234663852886e38  # an attribute must fit into a float32
MAX_SCALE: Final = 1024.0  # of a resize, per axis

# lists of pairs
MAX_PAIRS_BYTES: Final = 64 * MiB

# the machine
MAX_THREADS: Final = 256  # of one run
