/* processor: which ways to compute it has instructions for. */
#include "internal.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#include <cpuid.h>

/* Registers that the operating system keeps for each thread, by the bits of XCR0. */
static uint32_t kept_registers(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a;
}

int smidgen_processor_can(int way) {
    const uint32_t avx = 0x6, avx512 = 0xe6, needed = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    const uint32_t counts = bit_AVX512VBMI | bit_AVX512VPOPCNTDQ, kept = kept_registers();
    uint32_t a, b, c, d;
    if (way < SMIDGEN_AVX2)
        return 1;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    if (way == SMIDGEN_AVX2)
        return (kept & avx) == avx && (b & bit_AVX2);
    if (way == SMIDGEN_AVX512_COUNTS && (!(b & bit_BMI2) || (c & counts) != counts))
        return 0;
    return (kept & avx512) == avx512 && (b & needed) == needed && (c & bit_AVX512VNNI);
}
#else
int smidgen_processor_can(int way) {
    (void)way;
    return 1;
}
#endif
