/* Builds the core without a standard library: what it needs from its surroundings is four functions. */
#include "../core/smidgen.h"

void *memset(void *to, int byte, size_t size) {
    unsigned char *p = to;
    for (size_t i = 0; i < size; i++)
        p[i] = (unsigned char)byte;
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    unsigned char *p = to;
    const unsigned char *q = from;
    for (size_t i = 0; i < size; i++)
        p[i] = q[i];
    return to;
}

void *memmove(void *to, const void *from, size_t size) {
    unsigned char *p = to;
    const unsigned char *q = from;
    if (p < q)
        return memcpy(to, from, size);
    while (size--)
        p[size] = q[size];
    return to;
}
