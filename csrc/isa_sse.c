/* isa_sse.c: the kernels for SSE2, the floor of x86-64. */
#include "engine.h"
#if defined(__x86_64__)
#define ISA_NAME sse
#include "simd_sse.h"
#include "family.h"
#endif
