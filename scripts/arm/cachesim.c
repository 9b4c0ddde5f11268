/* cachesim.c: a plugin for qemu's user emulation that counts instructions and simulates the caches
 * of a small board: L1I, L1D, one L2 behind both; LRU, write-allocate, no prefetching.
 *
 *   qemu-aarch64 -d plugin -D REPORT -plugin file=cachesim.so,l1i=48:3,l1d=32:2,l2=1024:16 PROGRAM
 *
 * (KiB:ways, lines of 64 bytes). Every call of a function named tf_mark in the program begins a new
 * row of the report. A row has: instructions, accesses to data, L1I misses, L1D misses, L2 misses
 * (lines filled from DRAM) and lines written back to DRAM.
 *
 * qemu documents this interface in docs/devel/tcg-plugins; its header is not packaged everywhere,
 * so the few functions used are declared here. API: version of the interface (1 up to qemu 8.1).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
typedef void on_exec(unsigned vcpu, void *user);
typedef void on_access(unsigned vcpu, uint32_t info, uint64_t vaddr, void *user);
struct block;
struct insn;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct block *, on_exec *, int flags, void *user);
extern void qemu_plugin_register_vcpu_mem_cb(struct insn *, on_access *, int, int rw, void *user);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *user);
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern uint64_t qemu_plugin_tb_vaddr(const struct block *);
extern struct insn *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct insn *);
extern size_t qemu_plugin_insn_size(const struct insn *);
extern const char *qemu_plugin_insn_symbol(const struct insn *);
extern unsigned qemu_plugin_mem_size_shift(uint32_t info);
extern _Bool qemu_plugin_mem_is_store(uint32_t info);
extern void qemu_plugin_outs(const char *);
enum { NO_REGISTERS = 0, READS_AND_WRITES = 3 };

__attribute__((visibility("default"))) int qemu_plugin_version = API;

enum { LINE = 6, MAX_ROWS = 1 << 14 };

typedef struct {
    uint64_t line, used; /* line number + 1, 0: empty; clock of the last use */
    int dirty;
} slot;

typedef struct {
    slot *slots;
    uint64_t sets, ways;
} cache;

typedef struct {
    uint64_t insns, accesses, l1i, l1d, l2, written;
} row;

static cache l1i, l1d, l2;
static row rows[MAX_ROWS];
static int now;
static uint64_t clock_;

static slot *find(cache *c, uint64_t line)
{
    slot *set = c->slots + line % c->sets * c->ways;
    for (uint64_t w = 0; w < c->ways; w++)
        if (set[w].line == line + 1) return set + w;
    return NULL;
}

/* Brings a line in: 1 if it was not there. *out: the dirty line that had to go, plus 1, or 0. */
static int touch(cache *c, uint64_t line, int store, uint64_t *out)
{
    *out = 0;
    slot *s = find(c, line);
    const int miss = s == NULL;
    if (miss) {
        s = c->slots + line % c->sets * c->ways;
        for (slot *other = s + 1, *end = s + c->ways; other < end; other++)
            if (other->used < s->used) s = other;
        if (s->dirty) *out = s->line;
        *s = (slot){.line = line + 1};
    }
    s->used = ++clock_;
    s->dirty |= store;
    return miss;
}

static void access_line(cache *l1, uint64_t *misses, uint64_t line, int store)
{
    uint64_t out, beyond;
    if (!touch(l1, line, store, &out)) return;
    ++*misses;
    if (out) { /* into L2 where it still is, else to DRAM */
        slot *s = find(&l2, out - 1);
        if (s)
            s->dirty = 1;
        else
            rows[now].written++;
    }
    rows[now].l2 += (uint64_t)touch(&l2, line, 0, &beyond);
    rows[now].written += beyond != 0;
}

static void on_data(unsigned vcpu, uint32_t info, uint64_t vaddr, void *user)
{
    (void)vcpu, (void)user;
    const uint64_t last = vaddr + (1u << qemu_plugin_mem_size_shift(info)) - 1;
    rows[now].accesses++;
    for (uint64_t line = vaddr >> LINE; line <= last >> LINE; line++)
        access_line(&l1d, &rows[now].l1d, line, qemu_plugin_mem_is_store(info));
}

typedef struct {
    uint64_t insns, first, last; /* lines */
    int mark;
} code;

static void on_code(unsigned vcpu, void *user)
{
    (void)vcpu;
    const code *c = user;
    if (c->mark && now + 1 < MAX_ROWS) now++;
    rows[now].insns += c->insns;
    for (uint64_t line = c->first; line <= c->last; line++)
        access_line(&l1i, &rows[now].l1i, line, 0);
}

static void on_translate(plugin_id id, struct block *tb)
{
    (void)id;
    code *c = malloc(sizeof *c); /* lives as long as the translated code: to the end */
    const size_t n = qemu_plugin_tb_n_insns(tb);
    struct insn *first = qemu_plugin_tb_get_insn(tb, 0), *last = qemu_plugin_tb_get_insn(tb, n - 1);
    const char *name = qemu_plugin_insn_symbol(first);
    c->insns = n;
    c->first = qemu_plugin_insn_vaddr(first) >> LINE;
    c->last = (qemu_plugin_insn_vaddr(last) + qemu_plugin_insn_size(last) - 1) >> LINE;
    c->mark = name != NULL && strcmp(name, "tf_mark") == 0;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_code, NO_REGISTERS, c);
    for (size_t i = 0; i < n; i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_data, NO_REGISTERS,
                                         READS_AND_WRITES, NULL);
}

static void report(plugin_id id, void *user)
{
    (void)id, (void)user;
    char text[160];
    for (int i = 0; i <= now; i++) {
        const row *r = rows + i;
        snprintf(text, sizeof text,
                 "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
                 r->insns, r->accesses, r->l1i, r->l1d, r->l2, r->written);
        qemu_plugin_outs(text);
    }
}

static int shape(cache *c, const char *text) /* "KiB:ways" */
{
    unsigned long kib, ways;
    if (sscanf(text, "%lu:%lu", &kib, &ways) != 2 || !ways || !(kib << 10 >> LINE) / ways) return 0;
    c->ways = ways;
    c->sets = (kib << 10 >> LINE) / ways;
    c->slots = calloc(c->sets * ways, sizeof *c->slots);
    return c->slots != NULL;
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info,
                                                               int argc, char **argv)
{
    (void)info;
    int known = 0;
    for (int i = 0; i < argc; i++) {
        cache *c = strncmp(argv[i], "l1i=", 4) == 0   ? &l1i
                   : strncmp(argv[i], "l1d=", 4) == 0 ? &l1d
                                                      : &l2;
        known += shape(c, strchr(argv[i], '=') ? strchr(argv[i], '=') + 1 : "");
    }
    if (known != 3) {
        fputs("cachesim: needs l1i, l1d and l2, each as KiB:ways\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_atexit_cb(id, report, NULL);
    return 0;
}
