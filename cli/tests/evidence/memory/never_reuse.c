/* An allocator that never reuses memory. Memory that is freed without being wiped keeps its content, and
   the test finds it. Use it with LD_PRELOAD. */

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#define PIECE ((size_t)1 << 20)

static __thread char *next, *end;

void *aligned_alloc(size_t alignment, size_t size) {
    size_t header = alignment < 16 ? 16 : alignment;
    size_t need = 2 * header + size;
    if ((size_t)(end - next) < need) {
        size_t length = need < PIECE ? PIECE : (need + 4095) & ~(size_t)4095;
        next = mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (next == MAP_FAILED) {
            next = end = 0;
            errno = ENOMEM;
            return 0;
        }
        end = next + length;
    }
    char *block = (char *)(((size_t)next + header + header - 1) & ~(header - 1));
    ((size_t *)block)[-1] = size;
    next = block + size;
    return block;
}

void *malloc(size_t size) { return aligned_alloc(16, size); }

void free(void *block) { (void)block; }

void *calloc(size_t count, size_t size) { return malloc(count * size); }

void *memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }

int posix_memalign(void **block, size_t alignment, size_t size) {
    *block = aligned_alloc(alignment, size);
    return *block ? 0 : ENOMEM;
}

void *realloc(void *block, size_t size) {
    void *moved = malloc(size);
    if (block && moved) {
        size_t before = ((size_t *)block)[-1];
        memcpy(moved, block, before < size ? before : size);
    }
    return moved;
}
