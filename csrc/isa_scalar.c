/* isa_scalar.c: the kernels in plain C. */
#include "engine.h"
#define ISA_NAME scalar
#include "simd_scalar.h"
#include "family.h"
