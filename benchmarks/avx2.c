/* A processor without AVX-512, AMX and VNNI, for whatever is started with this library:
 *
 *     cc -O2 -shared -fPIC benchmarks/avx2.c -o avx2.so
 *     LD_PRELOAD=$PWD/avx2.so smidgen bench net.smidgen --data photos/
 *
 * Every engine asks the processor by the instruction `cpuid` what it can do. Linux can make that instruction fail
 * (arch_prctl(2), ARCH_SET_CPUID; the processor must have `cpuid_fault` in /proc/cpuinfo), and here it then gets an
 * answer in which the newer instructions are missing. Nothing is slowed down, and no engine is changed. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { SET_CPUID = 0x1012 }; /* of asm/prctl.h */

/* bits of leaf 7, in the order of Intel's manual */
enum { SUB0_EBX, SUB0_ECX, SUB0_EDX, SUB1_EAX, SUB1_EDX, WORDS };
static const uint32_t hidden[WORDS] = {
    [SUB0_EBX] = 1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31, /* AVX-512 */
    [SUB0_ECX] = 1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14,                 /* its VBMI, VNNI, BITALG, VPOPCNT */
    [SUB0_EDX] = 1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25, /* more of it; AMX */
    [SUB1_EAX] = 1u << 4 | 1u << 5 | 1u << 21 | 1u << 23,                            /* AVX-VNNI, BF16, AMX-FP16, IFMA */
    [SUB1_EDX] = 1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19,                  /* VNNI of other types; AVX10 */
};

static long allow(long on) {
    return syscall(SYS_arch_prctl, SET_CPUID, on);
}

static void answer(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    const uint32_t leaf = (uint32_t)registers[REG_RAX], sub = (uint32_t)registers[REG_RCX];
    uint32_t a, b, c, d;
    (void)info;
    if (code[0] != 0x0f || code[1] != 0xa2) { /* another fault, which happens again and ends the process */
        signal(signal_number, SIG_DFL);
        return;
    }
    allow(1);
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(sub));
    allow(0);
    if (leaf == 7 && sub == 0) {
        b &= ~hidden[SUB0_EBX];
        c &= ~hidden[SUB0_ECX];
        d &= ~hidden[SUB0_EDX];
    } else if (leaf == 7 && sub == 1) {
        a &= ~hidden[SUB1_EAX];
        d &= ~hidden[SUB1_EDX];
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (sigaction(SIGSEGV, &action, 0) || allow(0)) {
        fputs("avx2.so: this machine cannot hide instructions\n", stderr);
        _exit(1);
    }
}
