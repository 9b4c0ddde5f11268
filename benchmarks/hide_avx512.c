/* hide_avx512.c: AVX-512 and AMX hidden from every library of a process, to time all of them with
 * AVX2 on a processor that has more.
 *
 *     cc -O2 -shared -fPIC -o hide_avx512.so benchmarks/hide_avx512.c
 *     LD_PRELOAD=./hide_avx512.so python -m benchmarks.peers fdfacenet -t 1,2
 *
 * Some runtimes cannot be told which instructions to use, but all of them ask the processor. Linux
 * can make that question (CPUID) a fault, on Intel's processors since Ivy Bridge, and the handler
 * answers it with the bits of leaf 7 taken out. Threads inherit this; a program that the process
 * starts does not, but is preloaded as well.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* Of CPUID's leaf 7 (Intel SDM, table 3-8): AVX512F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2,
 * VNNI, BITALG, VPOPCNTDQ; 4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8.
 */
static const uint32_t EBX = 0xdc230000, ECX = 0x00005842, EDX = 0x03c0010c;

static void answer(int signal_number, siginfo_t *info, void *context)
{
    (void)info;
    greg_t *reg = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)reg[REG_RIP];
    if (at[0] != 0x0f || at[1] != 0xa2) { /* not CPUID: a fault like any other */
        signal(signal_number, SIG_DFL);
        return;
    }
    const uint32_t leaf = (uint32_t)reg[REG_RAX], part = (uint32_t)reg[REG_RCX];
    uint32_t a = leaf, b, c = part, d;
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 7 && part == 0) {
        a = 0; /* no further parts: AVX-VNNI, AVX512-BF16 and others stand there */
        b &= ~EBX;
        c &= ~ECX;
        d &= ~EDX;
    } else if (leaf == 7) {
        a = b = c = d = 0;
    }
    reg[REG_RAX] = a;
    reg[REG_RBX] = b;
    reg[REG_RCX] = c;
    reg[REG_RDX] = d;
    reg[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void)
{
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (sigaction(SIGSEGV, &action, NULL) || syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0))
        perror("hide_avx512: this processor or kernel does not let CPUID fault");
}
