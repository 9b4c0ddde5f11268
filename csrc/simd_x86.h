/* simd_x86.h: what the instruction sets of x86 share. Arithmetic is the compiler's own, on vectors
 * of any width. (For 32-bit NEON gcc would take it apart, since that rounds subnormals to 0.) */
typedef uint32_t vu __attribute__((vector_size(4 * VL)));

static inline vf v_add(vf a, vf b) { return a + b; }
static inline vf v_sub(vf a, vf b) { return a - b; }
static inline vf v_mul(vf a, vf b) { return a * b; }
static inline vf v_div(vf a, vf b) { return a / b; }
static inline vf v_pow2(vf magic) { return (vf)(((vu)magic + 127u) << 23); }

/* Four lanes do for moving: memory is slower. */
#define ZIP 4
static inline void store_zip(float *y, const float *a, const float *b)
{
    const __m128 x = _mm_loadu_ps(a), z = _mm_loadu_ps(b);
    _mm_storeu_ps(y, _mm_unpacklo_ps(x, z));
    _mm_storeu_ps(y + 4, _mm_unpackhi_ps(x, z));
}
static inline void store_zip3(float *y, const float *x, int64_t plane)
{
    const __m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + plane), c = _mm_loadu_ps(x + 2 * plane);
    const __m128 lo = _mm_unpacklo_ps(a, b), hi = _mm_unpackhi_ps(a, b);
    const __m128 c2 = _mm_shuffle_ps(c, hi, 0xaa), b3 = _mm_shuffle_ps(hi, c, 0xff);
    _mm_storeu_ps(y, _mm_shuffle_ps(lo, _mm_shuffle_ps(c, lo, 0xa0), 0x84));
    _mm_storeu_ps(y + 4, _mm_shuffle_ps(_mm_shuffle_ps(lo, c, 0x5f), hi, 0x48));
    _mm_storeu_ps(y + 8, _mm_shuffle_ps(c2, b3, 0x88));
}
static inline void turn(float *y, int64_t ld, const float *x, int64_t plane)
{
    __m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + plane);
    __m128 c = _mm_loadu_ps(x + 2 * plane), d = _mm_loadu_ps(x + 3 * plane);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(y, a), _mm_storeu_ps(y + ld, b);
    _mm_storeu_ps(y + 2 * ld, c), _mm_storeu_ps(y + 3 * ld, d);
}

typedef const float *vrow;
static inline vrow row_load(const float *p) { return p; }
