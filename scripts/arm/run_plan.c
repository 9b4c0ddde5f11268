/* run_plan.c: runs a plan made on another machine, for counting under emulation.
 *
 *   run_plan --isa       prints the best instruction set: name lanes rows_wide rows_slim rows_pack
 *   run_plan FILE        runs the plan in FILE twice, calling tf_mark before every step of the
 *                        second run and after the last; a chain runs with its first step
 *
 * FILE (scripts/count_arm.py writes it): the number of steps and of buffers, the size of each
 * buffer in bytes (int64); the steps; the contents of buffer 1, the weights. Buffer 0 is the
 * arena; the others are inputs, filled with numbers, and outputs.
 */
#include "tinyface.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tf_mark(void);
__attribute__((noinline)) void tf_mark(void) { __asm__ volatile("" ::: "memory"); }

enum { MAX_BUFFERS = 64 };

static void *memory(int64_t bytes)
{
    void *p = aligned_alloc(64, ((size_t)bytes + 127) / 64 * 64);
    if (p == NULL) exit(3);
    memset(p, 0, (size_t)bytes);
    return p;
}

static void fill(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(i * 37 % 251) / 125.0f - 1.0f;
}

static int run(FILE *file)
{
    int64_t count[2], bytes[MAX_BUFFERS], need = 0;
    void *buffers[MAX_BUFFERS];
    if (fread(count, sizeof *count, 2, file) != 2) return 1;
    const size_t n = (size_t)count[0], k = (size_t)count[1];
    if (k < 2 || k > MAX_BUFFERS || fread(bytes, sizeof *bytes, k, file) != k) return 1;
    tf_step *steps = memory((int64_t)(n * sizeof *steps));
    if (fread(steps, sizeof *steps, n, file) != n) return 1;
    for (size_t i = 0; i < k; i++) {
        buffers[i] = memory(bytes[i]);
        if (i > 1) fill(buffers[i], bytes[i] / 4);
    }
    if (fread(buffers[1], 1, (size_t)bytes[1], file) != (size_t)bytes[1]) return 1;

    const tf_kernels *kernels = tf_kernels_for(getenv("TINYFACE_ISA"));
    int32_t bad = 0;
    const int32_t all = (int32_t)n;
    const int32_t status = tf_check(kernels, steps, all, bytes, (int32_t)k, &need, &bad);
    if (status != TF_OK) {
        fprintf(stderr, "step %d: %s\n", (int)bad, tf_strerror(status));
        return 1;
    }
    void *scratch = memory(need);
    tf_run(kernels, steps, all, buffers, scratch, need, NULL, NULL, INT64_MAX);
    for (int32_t i = 0, next = 0; i < all; i++) {
        tf_mark();
        if (i < next) continue; /* it ran with the first of its chain */
        next = i + (steps[i].chain > 1 ? steps[i].chain : 1);
        tf_run(kernels, steps + i, next - i, buffers, scratch, need, NULL, NULL, INT64_MAX);
    }
    tf_mark();
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--isa") == 0) {
        tf_isa isa;
        tf_isa_of(tf_kernels_for(getenv("TINYFACE_ISA")), &isa);
        printf("%s %d %d %d %d\n", isa.name, (int)isa.lanes, (int)isa.rows_wide, (int)isa.rows_slim,
               (int)isa.rows_pack);
        return 0;
    }
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (file == NULL) {
        fputs("run_plan: give it a plan\n", stderr);
        return 2;
    }
    const int failed = run(file);
    fclose(file);
    return failed;
}
