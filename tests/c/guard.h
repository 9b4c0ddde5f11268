/* guard.h: buffers whose first float follows, or whose last float precedes, a
 * page that must not be touched. Reading or writing one float too far ends the
 * test with a signal. */
#ifndef GUARD_H
#define GUARD_H
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct {
    float *data;
    int64_t count;
    char *map;
    size_t bytes;
} guarded;

/* count floats, against the page behind them (end = 1) or in front of them (end
 * = 0). */
static guarded guard_new(int64_t count, int end)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)count * sizeof(float);
    const size_t body = (size + page - 1) / page * page;
    guarded g = {.count = count, .bytes = body + 2 * page};
    g.map = mmap(NULL, g.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.map == MAP_FAILED || mprotect(g.map, page, PROT_NONE) != 0 ||
        mprotect(g.map + page + body, page, PROT_NONE) != 0) {
        perror("guard pages");
        exit(2);
    }
    g.data = (float *)(void *)(g.map + page + (end ? body - size : 0));
    return g;
}

static void guard_free(guarded *g) { munmap(g->map, g->bytes); }

#endif
