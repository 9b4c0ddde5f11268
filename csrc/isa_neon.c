/* isa_neon.c: the kernels for NEON, aarch64 and armv7 with VFPv4. */
#include "engine.h"
#if defined(__aarch64__) || defined(__arm__)
#if defined(__arm__) && !defined(__clang__)
#pragma GCC target("fpu=neon-vfpv4")
#endif
#define ISA_NAME neon
#include "simd_neon.h"
#ifdef __aarch64__
#include "neon_roll.h"
#include "neon_tile.h"
#endif
#include "family.h"
#endif
