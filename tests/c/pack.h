/* pack.h: weights in the order in which the kernels read them, as tinyface/plan/pack.py. */
#ifndef PACK_H
#define PACK_H
#include "tinyface.h"
#include <math.h>
#include <string.h>

/* fp32 to fp16, round to nearest even. */
static inline void pack_half(const float *x, uint16_t *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        const uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
        uint32_t half;
        if (size >= 0x7f800000u) { /* infinity, NaN */
            half = size > 0x7f800000u ? 0x7e00u : 0x7c00u;
        } else if (size >= 0x477ff000u) { /* rounds to 65536 or more */
            half = 0x7c00u;
        } else if (size >= 0x38800000u) { /* normal: drop 13 bits, to nearest even */
            half = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
        } else { /* subnormal: a multiple of 2^-24; adding 0.5 lets the FPU round it */
            float v;
            memcpy(&v, &size, 4);
            v += 0.5f;
            memcpy(&half, &v, 4);
            half -= 0x3f000000u;
        }
        y[i] = (uint16_t)(sign | half);
    }
}

/* The panels of one group. */
static inline int64_t pack_group(float *out, const float *w, int64_t taps, int64_t per, int64_t o,
                                 int64_t lanes)
{
    int64_t n = 0;
    for (int64_t first = 0; first < o; first += 2 * lanes) {
        const int64_t width = o - first > lanes ? 2 * lanes : lanes;
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t k = 0; k < per; k++)
                for (int64_t j = 0; j < width; j++)
                    out[n++] = first + j < o ? w[((first + j) * per + k) * taps + tap] : 0.0f;
    }
    return n;
}

/* Tiles of a Winograd step. */
static inline int64_t wino_tiles(const tf_step *s)
{
    const int64_t m = s->tile;
    return s->n * ((s->oh + m - 1) / m) * ((s->ow + m - 1) / m);
}

/* G: what the points make of a filter of `taps` taps; one row each, and one for infinity. */
static inline int64_t wino_filter(const double *points, int64_t count, int64_t taps, double g[6][3])
{
    for (int64_t k = 0; k < count; k++) {
        double v = 1;
        for (int64_t j = 0; j < count; j++)
            if (j != k) v /= points[k] - points[j];
        for (int64_t q = 0; q < taps; q++, v *= points[k]) g[k][q] = v;
    }
    g[count][taps - 1] = 1;
    return count + 1;
}

/* U = G w G^T: (o, c, 3, 3) -> per panel (tile + 2)^2 matrices (c, 2 lanes). Of stride 2 the outer
 * two taps are the filter of the even samples, the middle one that of the odd ones. */
static inline int64_t pack_winograd(float *out, const float *w, const tf_step *s, int64_t lanes)
{
    const double a = sqrt(0.5), b = sqrt(2);
    const double four1[] = {0, a, -a, b, -b}, two1[] = {0, 1, -1};
    const double four2[] = {0, a, -a, 1.5}, two2[] = {0, 1};
    const int64_t side = s->tile + 2, c = s->c, o = s->oc;
    double g[6][3] = {{0}};
    if (s->sh == 1) {
        wino_filter(s->tile == 4 ? four1 : two1, side - 1, 3, g);
    } else {
        const int64_t odd_row = wino_filter(s->tile == 4 ? four2 : two2, side - 2, 2, g);
        for (int64_t k = 0; k < odd_row; k++) g[k][2] = g[k][1], g[k][1] = 0;
        g[odd_row][1] = 1;
    }
    int64_t n = 0;
    for (int64_t first = 0; first < o; first += 2 * lanes) {
        const int64_t width = o - first > lanes ? 2 * lanes : lanes;
        for (int64_t t = 0; t < side * side; t++)
            for (int64_t k = 0; k < c; k++)
                for (int64_t j = 0; j < width; j++, n++) {
                    double sum = 0;
                    for (int64_t q = 0; q < 9 && first + j < o; q++)
                        sum += g[t / side][q / 3] * g[t % side][q % 3] *
                               (double)w[((first + j) * c + k) * 9 + q];
                    out[n] = (float)sum;
                }
    }
    return n;
}

#endif
