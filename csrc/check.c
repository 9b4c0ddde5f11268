/* check.c: every number of every step, before anything runs. Touches no buffer. */
#include "engine.h"

/* Bounds within which no sum or product below, in chain.c or in a kernel can leave 64 bits: floats
 * times tasks (tf_share) need 39 and 24. */
static const int64_t MAX_SIDE = 1 << 24, MAX_STRIDE = (int64_t)1 << 34;
static const int64_t MAX_PIXELS = (int64_t)1 << 31, MAX_FLOATS = ((int64_t)1 << 39) - 1;
enum { MAX_WINDOW = 1 << 12, MAX_BUFFERS = 1 << 12 };

static int in_range(int64_t v, int64_t lo, int64_t hi) { return v >= lo && v <= hi; }

/* a b c d <= most, of positive factors; a b is at most 2^48 */
static int at_most(int64_t most, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return a * b <= most / c && a * b * c <= most / d;
}

/* The output map: of any size, the input's, made by windows, or by those of the step behind it. */
enum { FREE, SAME, WINDOW, WINDOW_BEHIND };
enum { BARE, SCALED, WEIGHED }; /* w and bias: absent; one of each per channel, or none; needed */
enum {
    NO_ACT = 1 << TF_NONE,
    ANY_ACT = (1 << TF_ACTS) - 1,
};

/* What a kernel looks at: whatever else a step says would be ignored, or worse. */
typedef struct {
    int32_t flags, acts; /* those that it knows */
    int8_t params, map;
    int8_t channels; /* may the output have others than the input? */
} tf_rule;
/* clang-format off */
static const tf_rule rules[TF_OPS] = {
    [TF_CONV] = {TF_RESIDUAL | TF_HALF | TF_RIVALS, ANY_ACT, WEIGHED, WINDOW, 1},
    [TF_WINOGRAD] = {TF_RESIDUAL | TF_TRANSFORMED | TF_RIVALS, ANY_ACT, WEIGHED, WINDOW, 1},
    [TF_GEMV] = {TF_RESIDUAL | TF_HALF, ANY_ACT, WEIGHED, SAME, 1},
    [TF_DEPTHWISE] = {0, ANY_ACT, WEIGHED, WINDOW, 0},
    [TF_GROUPED] = {0, ANY_ACT, WEIGHED, WINDOW, 0},
    [TF_MAXPOOL] = {0, NO_ACT, BARE, WINDOW, 0},
    [TF_AVGPOOL] = {TF_COUNT_PAD, NO_ACT, BARE, WINDOW, 0},
    [TF_ADD ... TF_MAXIMUM] = {TF_SPREAD, ANY_ACT, BARE, SAME, 0},
    [TF_AFFINE] = {0, ANY_ACT, SCALED, SAME, 0},
    [TF_FROM_NCHW] = {0, NO_ACT, BARE, FREE, 0},
    [TF_TO_NCHW] = {0, NO_ACT, BARE, SAME, 0},
    [TF_SHUFFLE] = {0, NO_ACT, BARE, SAME, 1},
    [TF_NEAREST] = {TF_MIRRORED, NO_ACT, BARE, FREE, 0},
    [TF_BILINEAR] = {TF_CORNERS, NO_ACT, BARE, FREE, 0},
    [TF_SOFTMAX ... TF_L2NORM] = {0, NO_ACT, BARE, SAME, 0},
    [TF_LAYERNORM] = {0, NO_ACT, SCALED, SAME, 0},
    [TF_MATMUL] = {TF_ACROSS, NO_ACT, BARE, SAME, 1},
    [TF_WINO_IN] = {0, NO_ACT, BARE, WINDOW_BEHIND, 0},
    [TF_PEAK ... TF_STREAM] = {0, NO_ACT, BARE, FREE, 1},
};
/* clang-format on */

/* The sizes of the buffers. */
typedef struct {
    const int64_t *bytes;
    int32_t buffers;
} tf_room;

/* 0 if n images of h rows of w pixels of c floats, seen through v, lie within the buffer. */
static int32_t check_view(const tf_view *v, const tf_room *room, int64_t n, int64_t h, int64_t w,
                          int64_t c)
{
    if (v->buf < 0 || v->buf >= room->buffers) return TF_BAD_BUFFER;
    if (v->ld < 0 || !in_range(v->row, 0, MAX_STRIDE) || !in_range(v->img, 0, MAX_STRIDE) ||
        v->off < 0)
        return TF_BAD_SHAPE;
    const int64_t floats = room->bytes[v->buf] / 4;
    const int64_t last = (n - 1) * v->img + (h - 1) * v->row + (w - 1) * v->ld + c;
    return v->off > floats || last > floats - v->off ? TF_BAD_BOUNDS : TF_OK;
}

/* A vector of n floats among the parameters, absent where that is allowed. */
static int32_t check_vector(const tf_step *s, int64_t off, int64_t n, int needed,
                            const tf_room *room)
{
    const tf_view v = {.buf = s->wbuf, .off = off};
    if (off < 0) return needed ? TF_BAD_BUFFER : TF_OK;
    return check_view(&v, room, 1, 1, 1, n);
}

/* Channels of the output. */
static int32_t made(const tf_step *s) { return s->flags & TF_RIVALS ? s->oc / 2 : s->oc; }

static int is_binary(int32_t op) { return op >= TF_ADD && op <= TF_MAXIMUM; }

/* Samples on a side of a tile, and tiles, of a Winograd step. */
static int64_t wino_side(const tf_step *s) { return (int64_t)(s->tile - 1) * s->sh + 3; }
static int64_t wino_tiles(const tf_step *s, int64_t oh, int64_t ow)
{
    return s->n * tf_ceil_div(oh, s->tile) * tf_ceil_div(ow, s->tile);
}

static int winograd_fits(const tf_step *s)
{
    if (s->kh != 3 || s->kw != 3 || s->sh != s->sw || s->sh > 2 || s->dh != 1 || s->dw != 1 ||
        s->groups != 1 || (s->tile != 2 && s->tile != 4))
        return 0;
    const int64_t squares = wino_side(s) * wino_side(s);
    if (s->op == TF_WINOGRAD)
        return !(s->flags & TF_TRANSFORMED) ||
               (s->h == squares && s->wd == wino_tiles(s, s->oh, s->ow));
    const int64_t down = (int64_t)s->pt + s->h + s->pb - 3,
                  right = (int64_t)s->pl + s->wd + s->pr - 3;
    return down >= 0 && right >= 0 && s->oh == squares &&
           s->ow == wino_tiles(s, down / s->sh + 1, right / s->sw + 1);
}

static int all_in(const int32_t *v, size_t count, int64_t lo, int64_t hi)
{
    for (size_t i = 0; i < count; i++)
        if (!in_range(v[i], lo, hi)) return 0;
    return 1;
}
#define ALL_IN(lo, hi, ...)                                                                        \
    all_in((const int32_t[]){__VA_ARGS__}, sizeof((int32_t[]){__VA_ARGS__}) / 4, lo, hi)

/* Windows begin within the map or its padding; what has none says so. */
static int windows_fit(const tf_step *s)
{
    const int windows = rules[s->op].map >= WINDOW, padded = windows || s->op == TF_FROM_NCHW;
    if (!ALL_IN(1, windows ? MAX_WINDOW : 1, s->kh, s->kw, s->sh, s->sw, s->dh, s->dw) ||
        !ALL_IN(0, padded ? MAX_WINDOW : 0, s->pt, s->pl, s->pb, s->pr))
        return 0;
    if (rules[s->op].map != WINDOW || s->flags & TF_TRANSFORMED) return 1;
    const int64_t down = (int64_t)(s->oh - 1) * s->sh, right = (int64_t)(s->ow - 1) * s->sw;
    return down < (int64_t)s->pt + s->h + s->pb && right < (int64_t)s->pl + s->wd + s->pr;
}

/* Sides, and what is made of them. */
static int sizes_fit(const tf_step *s)
{
    if (!ALL_IN(1, MAX_SIDE, s->n, s->h, s->wd, s->c, s->oh, s->ow, s->oc, s->groups, s->tasks))
        return 0;
    const int64_t taps = (int64_t)s->kh * s->kw, each = s->c / s->groups;
    return windows_fit(s) && s->c % s->groups == 0 &&
           (s->op == TF_SHUFFLE || s->oc % s->groups == 0) && (int64_t)s->n * s->oh <= MAX_SIDE &&
           (int64_t)s->oh * s->ow <= MAX_SIDE && at_most(MAX_PIXELS, s->n, s->oh, s->ow, 1) &&
           at_most(MAX_FLOATS, s->n, s->oh, s->ow, tf_max(s->c, s->oc)) &&
           at_most(MAX_FLOATS, s->n, s->h, s->wd, s->c) &&
           (rules[s->op].params != WEIGHED || at_most(MAX_FLOATS, taps, each, s->oc, 1));
}

static int shape_fits(const tf_step *s)
{
    const tf_rule *rule = rules + s->op;
    if (!in_range(s->act, 0, TF_ACTS - 1) || !(rule->acts >> s->act & 1) ||
        s->flags & ~rule->flags || !sizes_fit(s))
        return 0;
    if (rule->map == SAME && (s->oh != s->h || s->ow != s->wd)) return 0;
    if (!rule->channels && s->oc != s->c) return 0;
    switch (s->op) {
    case TF_SHUFFLE: return s->first >= 0 && (int64_t)s->first + s->oc <= s->c;
    case TF_FROM_NCHW: return s->pt + s->h <= s->oh && s->pl + s->wd <= s->ow;
    case TF_NEAREST:
    case TF_BILINEAR: return s->alpha > 0.0f && s->alpha < 1e6f && s->beta > 0.0f && s->beta < 1e6f;
    case TF_GROUPED:
        return s->kh == 3 && s->kw == 3 && s->dh == 1 && s->dw == 1 && s->sw <= 2 && s->ow >= 4;
    case TF_GEMV: return s->n == 1 && s->h == 1 && s->wd == 1 && s->groups == 1;
    case TF_CONV: return s->block >= 1 && s->panels >= 1;
    case TF_WINOGRAD: return s->block >= 1 && s->panels >= 1 && winograd_fits(s);
    case TF_WINO_IN: return winograd_fits(s);
    default: return 1;
    }
}

/* What is read of the map: windows that begin inside of it may hang over its end, where they
 * are clipped or read zeros; so the map as declared is the whole extent. Planes have channels in
 * the place of pixels, pixels in that of channels. What is TF_BAND is for check_links. */
static int32_t check_operands(const tf_step *s, const tf_room *room)
{
    const int product = s->op == TF_MATMUL;
    int64_t w = s->wd, c = s->c, ow = s->ow, oc = made(s);
    if (s->op == TF_FROM_NCHW) w = s->c, c = s->wd;
    if (s->op == TF_TO_NCHW) ow = s->oc, oc = s->ow;
    int32_t bad = TF_OK;
    if (s->x.buf != TF_BAND) bad = check_view(&s->x, room, s->n, s->h, w, c);
    if (!bad && s->y.buf != TF_BAND) bad = check_view(&s->y, room, s->n, s->oh, ow, oc);
    if (bad) return bad;
    const int needed = is_binary(s->op) || product || s->flags & TF_RESIDUAL;
    if (s->z.buf < 0) return needed ? TF_BAD_BUFFER : TF_OK;
    if (product) {
        ow = s->flags & TF_ACROSS ? s->oc : s->c;
        oc = s->flags & TF_ACROSS ? s->c : s->oc;
    } else if (s->flags & TF_SPREAD) {
        oc = 1;
    }
    return check_view(&s->z, room, s->n, s->oh, ow, oc);
}

static int64_t round_up(int64_t v, int64_t unit) { return tf_ceil_div(v, unit) * unit; }

static int32_t check_params(const tf_kernels *k, const tf_step *s, const tf_room *room)
{
    const int8_t params = rules[s->op].params, map = rules[s->op].map;
    const int needed = params == WEIGHED;
    const int64_t vl = k->isa.lanes, taps = (int64_t)s->kh * s->kw, each = s->c / s->groups;
    const int64_t outs = round_up(s->oc / s->groups, vl) * s->groups;
    const int rows = s->op == TF_DEPTHWISE || s->op == TF_GROUPED;
    int64_t weights = s->c, vectors = needed && !rows ? outs : s->oc;
    if (s->op == TF_CONV || s->op == TF_GEMV) weights = outs * taps * each;
    if (rows) weights = taps * s->c * (s->op == TF_GROUPED ? each : 1);
    if (s->op == TF_WINOGRAD) weights = outs * (s->tile + 2) * (s->tile + 2) * s->c;
    if (s->flags & TF_HALF) weights = tf_ceil_div(weights, 2);
    if (params == BARE && (s->w >= 0 || s->bias >= 0)) return TF_BAD_BUFFER;
    int32_t bad = check_vector(s, s->w, weights, needed, room);
    if (!bad) bad = check_vector(s, s->bias, vectors, needed, room);
    if (!bad) bad = check_vector(s, s->slope, vectors, s->act == TF_PRELU, room);
    const int pads = (map == WINDOW && needed) || map == WINDOW_BEHIND;
    const int reads = pads || s->op == TF_MATMUL; /* zeros */
    if (!bad) bad = check_vector(s, s->zero, tf_max(s->c, 2 * vl), reads, room);
    return bad;
}

/* The kernel walks tasks that must cover the output and not more. */
static int tasks_fit(const tf_kernels *k, const tf_step *s)
{
    const int64_t vl = k->isa.lanes;
    if (s->op == TF_PEAK || s->op == TF_STREAM) {
        /* a task an image, of whole steps of the loop; one vector of output each */
        const int whole = s->op == TF_PEAK ? s->c >= 12 * vl : s->c % (8 * vl) == 0;
        return whole && s->tasks == s->n && s->oc == vl && s->wd == 1 && s->first >= 1;
    }
    if (s->op == TF_GROUPED) return vl % (s->c / s->groups) == 0;
    if (s->op != TF_CONV && s->op != TF_WINOGRAD) return 1;
    const int rivals =
        s->groups == 1 && s->act == TF_NONE && !(s->flags & TF_RESIDUAL) && s->oc % (2 * vl) == 0;
    if (s->flags & TF_RIVALS && !rivals) return 0;
    const int64_t panels = tf_ceil_div(s->oc / s->groups, 2 * vl) * s->groups;
    const int64_t pixels = (int64_t)s->n * s->oh * s->ow;
    const int64_t rows = s->op == TF_CONV ? pixels : wino_tiles(s, s->oh, s->ow);
    return tf_ceil_div(rows, s->block) * tf_ceil_div(panels, s->panels) == s->tasks;
}

int64_t tf_scratch_bytes(const tf_kernels *k, const tf_step *s)
{
    const int64_t rows = tf_max(k->isa.rows_wide, k->isa.rows_slim), pointer = sizeof(void *);
    if (s->op == TF_CONV && k->isa.rows_pack && tf_packs(s, 2 * (int64_t)k->isa.lanes)) {
        const int64_t chunk = tf_pack_chunk(s), taps = (int64_t)s->kh * s->kw;
        const int64_t jobs = chunk / TF_PACK_ROWS * taps, wide = 2 * (int64_t)k->isa.lanes;
        return jobs * 80 + chunk * ((taps + 2) * pointer + 4 * (wide + taps * s->c)) +
               4 * TF_PACK_ROWS * wide;
    }
    if (s->op == TF_CONV) {
        const int64_t most = s->oc / s->groups > k->isa.lanes ? k->isa.rows_wide : k->isa.rows_slim;
        const int64_t pixels = tf_min(s->block, (int64_t)s->n * s->oh * s->ow);
        /* one behind the other, or row by row (conv_cut_of) */
        const int64_t tiles =
            tf_max(tf_ceil_div(pixels, most), pixels / s->ow * tf_ceil_div(s->ow, most));
        return tiles * ((int64_t)s->kh * s->kw + 2) * rows * pointer;
    }
    if (s->op == TF_WINOGRAD) {
        /* M, V if it is made here, on a cache line a table of two rows of pointers for each tile */
        const int64_t count = tf_min(s->block, wino_tiles(s, s->oh, s->ow));
        const int64_t m = tf_odd_lines(count * 2 * k->isa.lanes);
        const int64_t v = s->flags & TF_TRANSFORMED ? 0 : tf_odd_lines(count * s->c);
        return wino_side(s) * wino_side(s) * (m + v) * 4 + 2 * count * rows * pointer;
    }
    if (s->op == TF_MATMUL)
        return TF_MATMUL_TILES * 3 * rows * pointer + 8 * (int64_t)k->isa.lanes * s->c;
    if (s->op == TF_DEPTHWISE || s->op == TF_GROUPED) {
        const int64_t pitch = (int64_t)(s->ow - 1) * s->sw + (int64_t)(s->kw - 1) * s->dw + 1;
        return pitch * s->kh * pointer;
    }
    return 0;
}

/* Member j of a chain of n (or a step alone, n = 1): what is handed on has one shape and one
 * layout on both sides, and nothing else is TF_BAND. */
static int32_t check_links(const tf_step *s, int32_t j, int32_t n)
{
    const int32_t first = j == 0, last = j == n - 1;
    if ((s->x.buf == TF_BAND) == first || (s->y.buf == TF_BAND) == last || s->z.buf == TF_BAND)
        return TF_BAD_BUFFER;
    if (n == 1) return TF_OK;
    if (!first && s->chain > 1) return TF_BAD_SHAPE;
    const int window = s->op == TF_CONV || s->op == TF_DEPTHWISE || s->op == TF_GROUPED;
    if (!window && s->op != TF_MAXPOOL && s->op != TF_AFFINE && !is_binary(s->op)) return TF_BAD_OP;
    if (last) return TF_OK;
    const tf_view *y = &s->y, *x = &s[1].x;
    const int32_t c = made(s);
    if (s->n != s[1].n || s->oh != s[1].h || s->ow != s[1].wd || c != s[1].c) return TF_BAD_SHAPE;
    const int dense = y->off == 0 && y->ld == c && y->row == (int64_t)s->ow * c;
    return dense && x->off == 0 && x->ld == y->ld && x->row == y->row ? TF_OK : TF_BAD_SHAPE;
}

int32_t tf_check(const tf_kernels *k, const tf_step *steps, int32_t n, const int64_t *bytes,
                 int32_t buffers, int64_t *scratch, int32_t *bad)
{
    const tf_room room = {bytes, buffers};
    *scratch = 0;
    *bad = 0;
    if (!in_range(buffers, 0, MAX_BUFFERS)) return TF_BAD_BUFFER;
    for (int32_t i = 0, j = 0, members = 1; i < n; i++, j++) {
        const tf_step *s = steps + i;
        *bad = i;
        if (s->size != sizeof *s) return TF_BAD_SIZE;
        if (j == members) j = 0;
        if (j == 0) {
            members = s->chain > 1 ? s->chain : 1;
            if (members > TF_CHAIN_MAX || members > n - i) return TF_BAD_SHAPE;
            if (members > 1 && !in_range(s->band, 1, MAX_SIDE)) return TF_BAD_SHAPE;
        }
        if (!in_range(s->op, 0, TF_OPS - 1) || k->run[s->op] == NULL) return TF_BAD_OP;
        if (!shape_fits(s)) return TF_BAD_SHAPE;
        int32_t status = check_links(s, j, members);
        if (!status) status = check_operands(s, &room);
        if (!status) status = check_params(k, s, &room);
        if (!status && !tasks_fit(k, s)) status = TF_BAD_SHAPE;
        if (status) return status;
        if (j < members - 1) continue;
        const int64_t need = members > 1 ? tf_chain_bytes(k, s - j) : tf_scratch_bytes(k, s);
        *scratch = tf_max(*scratch, round_up(need, 64));
    }
    return TF_OK;
}

const char *tf_strerror(int32_t status)
{
    switch (status) {
    case TF_OK: return "no error";
    case TF_BAD_SIZE: return "the step has another size: rebuild the engine";
    case TF_BAD_OP: return "no kernel for this operator";
    case TF_BAD_SHAPE: return "a shape, window or stride is out of range";
    case TF_BAD_BUFFER: return "an operand is missing or names an unknown buffer";
    case TF_BAD_BOUNDS: return "an operand reaches beyond the end of its buffer";
    default: return "unknown status";
    }
}
