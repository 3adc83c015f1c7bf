/* Gives the temporary files of every run the same names, so that a call can be found again by the file
   that it concerns. Such a name has eight random bytes; whatever else is random stays so. To be
   preloaded. */

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
