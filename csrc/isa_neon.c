/* isa_neon.c: the kernels for NEON, aarch64 and armv7 with VFPv4. */
#include "engine.h"
#ifdef TF_NEON
#ifdef __arm__
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
