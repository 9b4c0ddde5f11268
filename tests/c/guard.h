/* guard.h: buffers whose first float follows, or whose last float precedes, a
 * page that must not be touched. Reading or writing one float too far ends the
 * test with a signal. */
#ifndef GUARD_H
#define GUARD_H
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef _WIN32
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

typedef struct {
    float *data;
    int64_t count;
    char *map;
    size_t bytes;
} guarded;

#ifdef _WIN32
static size_t guard_page(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}
static char *guard_map(size_t bytes)
{
    return VirtualAlloc(NULL, bytes, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
}
static int guard_forbid(char *page, size_t bytes)
{
    DWORD before;
    return VirtualProtect(page, bytes, PAGE_NOACCESS, &before) ? 0 : -1;
}
static void guard_free(guarded *g) { VirtualFree(g->map, 0, MEM_RELEASE); }
#else
static size_t guard_page(void) { return (size_t)sysconf(_SC_PAGESIZE); }
static char *guard_map(size_t bytes)
{
    char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return map == MAP_FAILED ? NULL : map;
}
static int guard_forbid(char *page, size_t bytes) { return mprotect(page, bytes, PROT_NONE); }
static void guard_free(guarded *g) { munmap(g->map, g->bytes); }
#endif

/* count floats, against the page behind them (end = 1) or in front of them (end
 * = 0). */
static guarded guard_new(int64_t count, int end)
{
    const size_t page = guard_page(), size = (size_t)count * sizeof(float);
    const size_t body = (size + page - 1) / page * page;
    guarded g = {.count = count, .bytes = body + 2 * page};
    g.map = guard_map(g.bytes);
    if (g.map == NULL || guard_forbid(g.map, page) != 0 ||
        guard_forbid(g.map + page + body, page) != 0) {
        perror("guard pages");
        exit(2);
    }
    g.data = (float *)(void *)(g.map + page + (end ? body - size : 0));
    return g;
}

#endif
