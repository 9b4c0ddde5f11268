/* simd_zip3.h: a0 b0 c0 a1 b1 c1 .. from three vectors, by shuffles within groups of four lanes.
 * UNPACKLO, UNPACKHI and SHUFFLE are those of the vector's width; group g of q0, q1, q2 are 12
 * floats in order. */
#define ZIP3(vec, UNPACKLO, UNPACKHI, SHUFFLE)                                                     \
    const vec lo = UNPACKLO(a, b), hi = UNPACKHI(a, b);                                            \
    const vec q0 = SHUFFLE(lo, SHUFFLE(c, lo, 0xa0), 0x84);                                        \
    const vec q1 = SHUFFLE(SHUFFLE(lo, c, 0x5f), hi, 0x48);                                        \
    const vec q2 = SHUFFLE(SHUFFLE(c, hi, 0xaa), SHUFFLE(hi, c, 0xff), 0x88);
