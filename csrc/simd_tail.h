/* simd_tail.h: n of a vector's floats, for instruction sets without masks: through memory. */
static inline vf v_load_n(const float *p, int64_t n)
{
    if (n >= VL) return v_load(p);
    float t[VL] = {0};
    for (int64_t i = 0; i < n; i++) t[i] = p[i];
    return v_load(t);
}
static inline void v_store_n(float *p, vf a, int64_t n)
{
    if (n >= VL) {
        v_store(p, a);
        return;
    }
    float t[VL];
    v_store(t, a);
    for (int64_t i = 0; i < n; i++) p[i] = t[i];
}
