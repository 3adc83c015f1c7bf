/* Gives the temporary files the same names in every run, so that a call can be found again by its file.
   Such a name has 8 random bytes. Other random bytes stay random. Use it with LD_PRELOAD. */

#define _GNU_SOURCE

#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define NAME ((size_t)8)

ssize_t getrandom(void *buffer, size_t length, unsigned flags) {
    if (length != NAME)
        return syscall(SYS_getrandom, buffer, length, flags);
    memset(buffer, 0x5a, length);
    return (ssize_t)length;
}
