/* test_check.c: tf_check refuses what a kernel would read or write beyond its operands for, or
 * could not do at all. Every step here is a good one but for the one thing that its line changes.
 */
#include "tinyface.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { X, PARAMS, Y, Z, BUFFERS };

/* A good step: 8 x 8 pixels of 64 channels in and out, and parameters in plenty. */
static tf_step good(int32_t op)
{
    tf_step s = {.size = sizeof s, .op = op, .wbuf = PARAMS, .n = 1, .h = 8, .wd = 8, .c = 64};
    s.oh = s.ow = 8, s.oc = 64;
    s.kh = s.kw = s.sh = s.sw = s.dh = s.dw = s.groups = s.tasks = 1;
    s.block = 64, s.panels = 64;
    s.w = s.bias = s.slope = s.zero = -1, s.alpha = s.beta = s.hi = 1.0f;
    s.x = s.y = s.z = (tf_view){.ld = 64, .row = 512, .img = 4096};
    s.x.buf = X, s.y.buf = Y, s.z.buf = TF_NOWHERE;
    if (op == TF_CONV || op == TF_DEPTHWISE) s.zero = 0, s.bias = 64, s.w = 128;
    if (op >= TF_ADD && op <= TF_MAXIMUM) s.z.buf = Z;
    if (op == TF_MATMUL) s.z.buf = Z, s.zero = 0, s.c = s.oc = 8;
    if (op == TF_GEMV) s.zero = 0, s.bias = 64, s.w = 128;
    if (op == TF_WINOGRAD) {
        s.zero = 0, s.bias = 64, s.w = 128, s.tile = 2, s.c = s.oc = 16;
        s.kh = s.kw = 3, s.pt = s.pl = s.pb = s.pr = 1;
    }
    return s;
}

static int32_t check(const tf_kernels *k, const tf_step *s, int32_t n)
{
    const int64_t bytes[BUFFERS] = {4 * 4096, 4 * 8192, 4 * 4096, 4 * 4096};
    int64_t scratch;
    int32_t bad;
    return tf_check(k, s, n, bytes, BUFFERS, &scratch, &bad);
}

static int refused(const tf_kernels *k, const char *what, tf_step s)
{
    const int32_t status = check(k, &s, 1);
    if (status == TF_OK) printf("check: accepts %s\n", what);
    return status == TF_OK;
}

#define BAD(op, ...)                                                                               \
    do {                                                                                           \
        tf_step s = good(op);                                                                      \
        __VA_ARGS__;                                                                               \
        bad += refused(k, #op ": " #__VA_ARGS__, s);                                               \
    } while (0)

/* A chain member does not run on fewer rows than the one behind it reads, whatever it says. */
static int chains(const tf_kernels *k)
{
    tf_step s[2] = {good(TF_ADD), good(TF_AFFINE)};
    s[0].chain = 2, s[0].band = 2;
    s[0].y.buf = s[1].x.buf = TF_BAND;
    int bad = check(k, s, 2) != TF_OK;
    s[0].sh = 4;
    bad += check(k, s, 2) == TF_OK;
    if (bad) printf("check: chain of an addition\n");
    return bad;
}

/* Several groups to a vector, where there are kernels for that. */
static int grouped(const tf_kernels *k)
{
    tf_isa isa;
    tf_isa_of(k, &isa);
    tf_step s = good(TF_GROUPED);
    s.kh = s.kw = 3, s.pt = s.pl = s.pb = s.pr = 1, s.groups = 16;
    s.zero = 0, s.bias = 64, s.w = 128;
    if (isa.lanes < 8) return check(k, &s, 1) != TF_BAD_OP;
    int bad = check(k, &s, 1) != TF_OK;
    const tf_step whole = s;
    s.groups = 2, bad += check(k, &s, 1) == TF_OK, s = whole; /* wider than a vector */
    s.sw = 3, bad += check(k, &s, 1) == TF_OK, s = whole;
    s.dh = 2, bad += check(k, &s, 1) == TF_OK, s = whole;
    s.wd = s.ow = 3, bad += check(k, &s, 1) == TF_OK, s = whole;
    s.oc = 32, bad += check(k, &s, 1) == TF_OK, s = whole;
    s.flags = TF_HALF, bad += check(k, &s, 1) == TF_OK, s = whole;
    s.w = 8192 - 64 * 9 * 4 + 1, bad += check(k, &s, 1) == TF_OK;
    if (bad) printf("check: grouped\n");
    return bad;
}

/* Filters that compete: whole panels of them, and nothing behind the larger ones, of which the
 * output has one for two. */
static int rivals(const tf_kernels *k)
{
    tf_isa isa;
    tf_isa_of(k, &isa);
    tf_step s = good(TF_CONV);
    s.flags = TF_RIVALS, s.oc = 2 * isa.lanes;
    s.y.off = 4096 - (7 * 512 + 7 * 64 + isa.lanes);
    int bad = check(k, &s, 1) != TF_OK;
    const tf_step whole = s;
    s.y.off++, bad += check(k, &s, 1) == TF_OK, s = whole;
    s.oc = 3 * isa.lanes, s.y.off = 0, bad += check(k, &s, 1) == TF_OK, s = whole;
    s.groups = 2, bad += check(k, &s, 1) == TF_OK, s = whole;
    s.act = TF_CLIP, bad += check(k, &s, 1) == TF_OK, s = whole;
    s.flags |= TF_RESIDUAL, s.z = s.x, s.z.buf = Z, bad += check(k, &s, 1) == TF_OK, s = whole;
    if (bad) printf("check: rivals\n");
    return bad;
}

/* What a step reads or writes by its own rules: one float, row, channel or task too many. */
static int ends(const tf_kernels *k)
{
    tf_isa isa;
    tf_isa_of(k, &isa);
    int bad = 0;
    BAD(TF_ADD, s.n = 2);
    BAD(TF_ADD, s.z.off = 1);
    BAD(TF_CONV, s.flags = TF_RESIDUAL, s.z.buf = Z, s.z.off = 1);
    BAD(TF_MATMUL, s.z.off = 4096);
    BAD(TF_MATMUL, s.zero = -1);
    BAD(TF_CONV, s.oc = 65 - isa.lanes, s.bias = 8192 - 63); /* whole vectors are read */
    BAD(TF_CONV, s.act = TF_PRELU, s.slope = 8192 - 63);
    BAD(TF_CONV, s.oc = 16, s.zero = 8192 - 63);
    BAD(TF_CONV, s.tasks = 2);
    BAD(TF_WINOGRAD, s.flags = TF_TRANSFORMED);
    BAD(TF_WINOGRAD, s.w = 8192 - 16 * 16 * 16 + 1);
    BAD(TF_WINOGRAD, s.sh = 3, s.sw = 3, s.oh = 3, s.ow = 3);
    BAD(TF_WINOGRAD, s.block = 1);
    BAD(TF_SHUFFLE, s.groups = 2, s.first = 1);
    BAD(TF_NEAREST, s.alpha = -1);
    BAD(TF_NEAREST, s.alpha = NAN);
    BAD(TF_GEMV, s.wd = s.ow = 8);
    return bad;
}

/* A product of 2^39 panels of scalar code, shared by 2^24 tasks, would leave 64 bits. */
static int widest(const tf_kernels *k)
{
    const int64_t bytes[BUFFERS] = {4 << 24, 4 << 24, 4 << 24, 4 << 24};
    int64_t scratch;
    int32_t where;
    tf_step s = good(TF_MATMUL);
    s.x.ld = s.y.ld = s.z.ld = 0;
    s.x.row = s.y.row = s.z.row = 0;
    s.c = s.wd = s.ow = 1, s.oc = s.tasks = 1 << 24;
    s.h = s.oh = 1 << 14;
    int bad = tf_check(k, &s, 1, bytes, BUFFERS, &scratch, &where) != TF_OK;
    s.h = s.oh = 1 << 16;
    bad += tf_check(k, &s, 1, bytes, BUFFERS, &scratch, &where) == TF_OK;
    if (bad) printf("check: the widest product\n");
    return bad;
}

int check_case(const tf_kernels *k)
{
    static const int32_t ops[] = {TF_CONV,    TF_DEPTHWISE, TF_MAXPOOL,   TF_AVGPOOL, TF_ADD,
                                  TF_MUL,     TF_DIV,       TF_MAXIMUM,   TF_AFFINE,  TF_SHUFFLE,
                                  TF_SOFTMAX, TF_L2NORM,    TF_LAYERNORM, TF_MATMUL,  TF_NEAREST};
    int bad = chains(k);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        const tf_step s = good(ops[i]);
        if (check(k, &s, 1) != TF_OK) bad++, printf("check: refuses a good step, op %d\n", ops[i]);
        BAD(ops[i], s.act = TF_ACTS);
        BAD(ops[i], s.flags = 1 << 20);
        BAD(ops[i], s.y.row = 1 << 13);
        BAD(ops[i], s.x.off = 4096);
        BAD(ops[i], s.oh = 1 << 24, s.h = 1 << 24);
    }
    /* windows of operators that have none; what a kernel would take for fp16, or not look at */
    BAD(TF_AFFINE, s.kh = 3);
    BAD(TF_ADD, s.pt = 1);
    BAD(TF_DEPTHWISE, s.flags = TF_HALF);
    bad += grouped(k);
    bad += rivals(k);
    BAD(TF_AFFINE, s.w = 0, s.flags = TF_HALF);
    BAD(TF_MATMUL, s.flags = TF_RESIDUAL);
    BAD(TF_MATMUL, s.act = TF_PRELU, s.slope = 0);
    BAD(TF_SOFTMAX, s.act = TF_CLIP);
    /* parameters where none belong, beyond the end, or missing */
    BAD(TF_L2NORM, s.w = 0);
    BAD(TF_SOFTMAX, s.bias = 0);
    BAD(TF_ADD, s.w = 0);
    BAD(TF_AFFINE, s.w = 8192 - 63);
    BAD(TF_LAYERNORM, s.bias = 8192 - 63);
    BAD(TF_CONV, s.w = 8192 - 64 * 64 + 1);
    BAD(TF_CONV, s.bias = -1);
    BAD(TF_CONV, s.zero = -1);
    BAD(TF_CONV, s.act = TF_PRELU);
    /* windows beyond the map and its padding; sizes whose products leave 64 bits */
    BAD(TF_MAXPOOL, s.sh = 2);
    BAD(TF_CONV, s.sw = 2, s.ow = 5, s.tasks = 1);
    BAD(TF_CONV, s.c = s.oc = 1 << 20, s.kh = s.kw = 4096);
    BAD(TF_ADD, s.n = s.h = s.oh = 1 << 12, s.wd = s.ow = 1 << 12, s.c = s.oc = 1 << 10);
    bad += ends(k);
    bad += widest(k);
    return bad;
}
