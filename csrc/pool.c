/* pool.c: threads that share the tasks of one step at a time.
 *
 * Every thread has a range of the tasks, the same part of each step: what it wrote in one step it
 * mostly reads in the next, from its own cache. When its range is done it takes over tasks of
 * others.
 *
 * A step is published by writing its description, then how many tasks are left in each range, then
 * the number of the round. Whoever takes a range's number down from k > 0 owns its task `end - k`,
 * which also guarantees that the description stays until that task is done. A late thread finds
 * nothing left and touches nothing, so a step never waits for a thread that holds no task.
 *
 * Between two steps a thread looks for work for some 20 us, then sleeps on a condition
 * variable: nothing spins while no network runs.
 */
#include "engine.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#ifndef _WIN32
#include <signal.h>
#endif

enum { SPINS = 4000 };

struct tf_pool {
    /* the step */
    tf_kernel *kernel;
    const tf_call *call;
    char *scratch;
    int64_t stride;
    int32_t tasks;
    /* apart from the rest, because all threads write or watch them */
    _Alignas(64) atomic_uint round;
    _Alignas(64) atomic_int done;
    _Alignas(64) atomic_int sleeping;
    atomic_int stop;
    int32_t threads;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct worker {                   /* the first one is the caller */
        _Alignas(64) atomic_int left; /* tasks of its range */
        tf_pool *pool;
        int32_t id;
        pthread_t thread;
    } workers[TF_MAX_THREADS];
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#elif defined(__arm__)
    __asm__ volatile("yield");
#endif
}

/* Takes tasks until none is left, those of its own range first. */
static void help(tf_pool *p, int32_t id)
{
    for (int32_t j = 0; j < p->threads; j++) {
        const int32_t range = (id + j) % p->threads;
        atomic_int *left = &p->workers[range].left;
        int k;
        while (atomic_load_explicit(left, memory_order_relaxed) > 0 &&
               (k = atomic_fetch_sub(left, 1)) > 0) {
            int64_t from, to;
            tf_share(p->tasks, range, p->threads, &from, &to);
            p->kernel(p->call, (int32_t)to - k, p->scratch + id * p->stride);
            atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
        }
    }
}

static int idle(tf_pool *p, unsigned seen)
{
    return atomic_load(&p->round) == seen && !atomic_load(&p->stop);
}

static void *work(void *arg)
{
    const struct worker *w = arg;
    tf_pool *p = w->pool;
    unsigned seen = 0; /* the last round that this thread has looked at */
    tf_flush();
    while (!atomic_load(&p->stop)) {
        for (int i = 0; i < SPINS && idle(p, seen); i++) relax();
        if (idle(p, seen)) {
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->sleeping, 1);
            while (idle(p, seen)) pthread_cond_wait(&p->wake, &p->lock);
            atomic_fetch_sub(&p->sleeping, 1);
            pthread_mutex_unlock(&p->lock);
        }
        seen = atomic_load(&p->round);
        help(p, w->id);
    }
    return NULL;
}

/* Of a new round or the end: whoever goes to sleep looks for either once more behind its
 * `sleeping`.
 */
static void wake_all(tf_pool *p)
{
    if (atomic_load(&p->sleeping) == 0) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void tf_pool_run(tf_pool *p, tf_kernel *kernel, const tf_call *call, int32_t tasks, char *scratch,
                 int64_t stride)
{
    if (!p || tasks == 1) {
        for (int32_t t = 0; t < tasks; t++) kernel(call, t, scratch);
        return;
    }
    p->kernel = kernel;
    p->call = call;
    p->scratch = scratch;
    p->stride = stride;
    p->tasks = tasks;
    atomic_store(&p->done, 0);
    for (int32_t r = 0; r < p->threads; r++) { /* from here on the others may start */
        int64_t from, to;
        tf_share(tasks, r, p->threads, &from, &to);
        atomic_store(&p->workers[r].left, (int)(to - from));
    }
    atomic_fetch_add(&p->round, 1);
    wake_all(p);
    help(p, 0);
    for (int i = 0; atomic_load_explicit(&p->done, memory_order_acquire) < tasks; i++)
        if (i < SPINS)
            relax();
        else
            sched_yield();
}

int32_t tf_pool_threads(const tf_pool *p) { return p->threads; }

int64_t tf_pool_bytes(void) { return sizeof(tf_pool); }

/* Signals are for the program's own threads, which may wait for one that they block. What a
 * thread's own fault sends comes to it all the same, for a crash's report. */
#ifdef _WIN32 /* sends none to threads */
typedef int signals;
static signals signals_off(void) { return 0; }
static void signals_back(signals before) { (void)before; }
#else
typedef sigset_t signals;
static signals signals_off(void)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (int i = 0; i < 4; i++) sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    return before;
}
static void signals_back(signals before) { pthread_sigmask(SIG_SETMASK, &before, NULL); }
#endif

int32_t tf_pool_start(tf_pool *p, int32_t threads)
{
    memset(p, 0, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    const signals before = signals_off(); /* new threads begin so */
    for (p->threads = 1; p->threads < threads && p->threads < TF_MAX_THREADS; p->threads++) {
        struct worker *w = &p->workers[p->threads];
        w->pool = p;
        w->id = p->threads;
        if (pthread_create(&w->thread, NULL, work, w) != 0) break;
    }
    signals_back(before);
    return p->threads;
}

void tf_pool_stop(tf_pool *p)
{
    if (p->threads == 0) return; /* zeros: never started */
    atomic_store(&p->stop, 1);
    wake_all(p);
    for (int32_t i = 1; i < p->threads; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
}
