/* cpu.c: which instruction sets this CPU and operating system can run. */
#include "engine.h"
#include <stdlib.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__linux__) && (defined(__aarch64__) || defined(__arm__))
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)
enum { HAS_SSE = 1, HAS_AVX2 = 2, HAS_AVX512 = 4 };

/* cpuid rather than __builtin_cpu_supports, which some tool chains cannot link. A set counts
 * only where the operating system saves its registers (xgetbv). */
static int x86_features(void)
{
    unsigned a, b, c, d, lo, hi;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return HAS_SSE;
    const unsigned osxsave = 1u << 27, avx = 1u << 28, fma = 1u << 12, f16c = 1u << 29;
    const unsigned want = osxsave | avx | fma | f16c;
    if ((c & want) != want) return HAS_SSE;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    if ((lo & 0x6u) != 0x6u || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return HAS_SSE;
    if (!(b & 1u << 5)) return HAS_SSE;
    const unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    const unsigned wide = f | dq | bw | vl;
    if ((lo & 0xe6u) != 0xe6u || (b & wide) != wide) return HAS_SSE | HAS_AVX2;
    return HAS_SSE | HAS_AVX2 | HAS_AVX512;
}
#endif

/* Tables this CPU can run, best last. */
static int32_t usable(const tf_kernels **out)
{
    int32_t n = 0;
    out[n++] = &tf_scalar;
#if defined(__x86_64__)
    const int has = x86_features();
    out[n++] = &tf_sse;
    if (has & HAS_AVX2) out[n++] = &tf_avx2;
    if (has & HAS_AVX512) out[n++] = &tf_avx512;
#elif defined(__aarch64__)
    out[n++] = &tf_neon;
#elif defined(TF_NEON) && defined(__linux__)
    if (getauxval(AT_HWCAP) & 1u << 16) out[n++] = &tf_neon; /* HWCAP_VFPv4 */
#endif
    return n;
}

const tf_kernels *tf_kernels_for(const char *name)
{
    const tf_kernels *table[8];
    const int32_t n = usable(table);
    if (name == NULL) return table[n - 1];
    for (int32_t i = 0; i < n; i++)
        if (strcmp(table[i]->isa.name, name) == 0) return table[i];
    return NULL;
}

int32_t tf_isa_list(tf_isa *out, int32_t cap)
{
    const tf_kernels *table[8];
    const int32_t n = usable(table);
    for (int32_t i = 0; i < n && i < cap; i++) out[i] = table[i]->isa;
    return n;
}

void tf_isa_of(const tf_kernels *k, tf_isa *out) { *out = k->isa; }
