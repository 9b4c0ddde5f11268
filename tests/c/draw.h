/* draw.h: random steps, reproducible by their seed. */
#ifndef DRAW_H
#define DRAW_H
#include "guard.h"
#include "tinyface.h"

extern uint64_t draw_state;
static inline uint32_t draw(uint32_t n) /* 0 .. n - 1 */
{
    draw_state = draw_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(draw_state >> 33) % n;
}
static inline float real(void) { return (float)draw(20001) / 10000.0f - 1.0f; }
static inline int32_t odd(void)
{
    static const int32_t sides[] = {1, 2, 3, 5, 7, 13, 17, 31};
    return sides[draw(8)];
}

static inline int64_t extent(const tf_view *v, int64_t n, int64_t h, int64_t w, int64_t c)
{
    return (n - 1) * v->img + (h - 1) * v->row + (w - 1) * v->ld + c;
}

/* A view of h x w pixels with random gaps between pixels, rows and images. */
static inline tf_view gappy(int32_t buf, int64_t h, int64_t w, int64_t c)
{
    const uint32_t most = draw(2) ? 9 : 1; /* pixels the same distance apart take other ways */
    tf_view v = {.buf = buf, .ld = (int32_t)(c + draw(2) * draw(9))};
    v.row = w * v.ld + draw(most);
    v.img = h * v.row + draw(most);
    return v;
}

/* Of the output. */
static inline int32_t channels(const tf_step *s)
{
    return s->flags & TF_RIVALS ? s->oc / 2 : s->oc;
}

static inline void random_window(tf_step *s)
{
    const int32_t sides[] = {1, 2, 3, 3, 5, 7};
    s->kh = sides[draw(6)], s->kw = sides[draw(6)];
    s->sh = 1 + (int32_t)draw(draw(4) ? 2 : 9), s->sw = draw(3) ? s->sh : 1 + (int32_t)draw(3);
    if (draw(4) == 0) s->dh = 1 + (int32_t)draw(3), s->dw = 1 + (int32_t)draw(3);
    s->pt = (int32_t)draw((uint32_t)s->kh), s->pl = (int32_t)draw((uint32_t)s->kw);
    s->pb = (int32_t)draw((uint32_t)s->kh), s->pr = (int32_t)draw((uint32_t)s->kw);
    const int32_t eh = (s->kh - 1) * s->dh + 1, ew = (s->kw - 1) * s->dw + 1;
    while (s->h + s->pt + s->pb < eh) s->h++;
    while (s->wd + s->pl + s->pr < ew) s->wd++;
    s->oh = (s->h + s->pt + s->pb - eh) / s->sh + 1;
    s->ow = (s->wd + s->pl + s->pr - ew) / s->sw + 1;
}

/* Means along an axis: one row of outputs, which tasks share by channels; of one channel, of values
 * side by side. */
static inline void mean_of_axis(tf_step *s)
{
    s->n = s->oh = 1, s->kh = s->h, s->kw = 1;
    s->sh = s->sw = s->dh = s->dw = 1;
    s->pt = s->pl = s->pb = s->pr = 0;
    s->ow = s->wd = draw(2) ? 1 : s->wd;
    s->c = s->oc = draw(2) ? 1 : s->c;
}

/* 3x3 over whole vectors of channels, as most networks have it; some rows too long for L1. `most`:
 * dilation, of which padding may be so much more than common. */
static inline void common_depthwise(tf_step *s, uint32_t most)
{
    s->kh = s->kw = 3, s->sh = s->sw = 1 + (int32_t)draw(2);
    s->dh = 1 + (int32_t)draw(most), s->dw = 1 + (int32_t)draw(most);
    s->c = s->oc = 8 * (1 + (int32_t)draw(draw(3) ? 3 : 16));
    if (draw(3) == 0) s->wd += 2560 / s->c;
    s->pt = (int32_t)draw(1 + most), s->pl = (int32_t)draw(1 + most);
    s->pb = (int32_t)draw(1 + most), s->pr = (int32_t)draw(1 + most);
    while (s->h + s->pt + s->pb <= 2 * s->dh) s->h++;
    while (s->wd + s->pl + s->pr <= 2 * s->dw) s->wd++;
    s->oh = (s->h + s->pt + s->pb - 2 * s->dh - 1) / s->sh + 1;
    s->ow = (s->wd + s->pl + s->pr - 2 * s->dw - 1) / s->sw + 1;
}

/* Groups of which several, or one, fill a vector; maps at least four outputs wide. */
static inline void few_a_group(tf_step *s)
{
    s->wd += 8;
    common_depthwise(s, 1);
    s->groups = odd();
    s->c = s->oc = s->groups << draw(4);
}

/* A convolution of a picture: small windows within the map, rows that tiles fill. */
static inline void picture(tf_step *s)
{
    const int32_t outputs[] = {12, 24, 36, 43, 48, 55, 56, 59};
    s->kh = s->kw = draw(3) ? 3 : 5, s->sh = s->sw = 1 + (int32_t)draw(2);
    s->pt = s->pl = s->pb = s->pr = 0, s->groups = 1 + (int32_t)draw(2);
    s->c = s->groups * (s->kh == 5 ? 2 : 1 + (int32_t)draw(5));
    s->oh = 1 + (int32_t)draw(5), s->ow = outputs[draw(8)];
    s->h = (s->oh - 1) * s->sh + s->kh + (int32_t)draw(2);
    s->wd = (s->ow - 1) * s->sw + s->kw + (int32_t)draw((uint32_t)s->sw);
}

#endif
