/* Preloaded into a process: from `arm` on, counts the calls that change files below a folder, and ends the process at
 * the n-th, either before it or after half of the bytes of a write. Every call is written down, one line each.
 *
 * Only the process that called `arm` is counted, not what it forks. Paths of descriptors are asked of the kernel, so
 * duplicates and folders' descriptors need no book-keeping. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define EXIT 77

static char below[PATH_MAX];
static pid_t owner;
static long countdown, half, record = -1; /* the descriptor on which calls are written down */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

void arm(const char *folder, long n, int half_way, int log) {
    snprintf(below, sizeof below, "%s/", folder);
    countdown = n;
    half = half_way;
    record = log;
    owner = getpid();
}

static void absolute(char *into, int dir, const char *path) {
    char link[64], base[PATH_MAX] = "";
    into[0] = 0;
    if (path && path[0] == '/') {
        snprintf(into, PATH_MAX, "%s", path);
        return;
    }
    if (dir == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t got = readlink(link, base, sizeof base - 1);
    if (got < 0)
        return;
    base[got] = 0;
    if (snprintf(into, PATH_MAX, path ? "%s/%s" : "%s", base, path) >= PATH_MAX)
        into[0] = 0;
}

/* Is this call a point, and the one at which to end? 0: go on; 1: end half way. Does not return if it ends before. */
static int point(const char *call, int writes, int dir, const char *path, int dir2, const char *path2) {
    char one[PATH_MAX], two[PATH_MAX] = "", line[2 * PATH_MAX + 64];
    if (!owner || owner != getpid())
        return 0;
    absolute(one, dir, path);
    if (path2)
        absolute(two, dir2, path2);
    size_t size = strlen(below);
    if (strncmp(one, below, size) && strncmp(two, below, size))
        return 0;
    pthread_mutex_lock(&turn);
    long left = --countdown;
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", call, one, two);
    if (record >= 0)
        syscall(SYS_write, (int)record, line, length);
    if (left == 0 && !(half && writes))
        _exit(EXIT);
    pthread_mutex_unlock(&turn);
    return left == 0;
}

static int opens(const char *call, int dir, const char *path, int flags) {
    return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) ? point(call, 0, dir, path, 0, NULL) : 0;
}

#define MODE                                                                                                           \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                               \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }
#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        MODE opens("open", AT_FDCWD, path, flags);                                                                     \
        return REAL(name)(path, flags, mode);                                                                          \
    }
#define OPENAT(name)                                                                                                   \
    int name(int dir, const char *path, int flags, ...) {                                                              \
        MODE opens("open", dir, path, flags);                                                                          \
        return REAL(name)(dir, path, flags, mode);                                                                     \
    }
#define CREAT(name)                                                                                                    \
    int name(const char *path, mode_t mode) {                                                                          \
        point("open", 0, AT_FDCWD, path, 0, NULL);                                                                     \
        return REAL(name)(path, mode);                                                                                 \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CREAT(creat)
CREAT(creat64)

ssize_t write(int fd, const void *data, size_t size) {
    if (point("write", 1, fd, NULL, 0, NULL)) {
        REAL(write)(fd, data, size / 2);
        _exit(EXIT);
    }
    return REAL(write)(fd, data, size);
}
#define PWRITE(name, offset_t)                                                                                         \
    ssize_t name(int fd, const void *data, size_t size, offset_t offset) {                                             \
        if (point("write", 1, fd, NULL, 0, NULL)) {                                                                    \
            REAL(name)(fd, data, size / 2, offset);                                                                    \
            _exit(EXIT);                                                                                               \
        }                                                                                                              \
        return REAL(name)(fd, data, size, offset);                                                                     \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (point("write", 1, fd, NULL, 0, NULL)) {
        REAL(write)(fd, parts[0].iov_base, parts[0].iov_len / 2);
        _exit(EXIT);
    }
    return REAL(writev)(fd, parts, count);
}

/* Calls without anything in between: before them is the only place to end. */
#define CALL(result, name, call, signature, arguments, ...)                                                            \
    result name signature {                                                                                            \
        point(call, 0, __VA_ARGS__);                                                                                   \
        return REAL(name) arguments;                                                                                   \
    }
#define HERE AT_FDCWD
#define NO 0, NULL
CALL(int, fsync, "fsync", (int fd), (fd), fd, NULL, NO)
CALL(int, fdatasync, "fsync", (int fd), (fd), fd, NULL, NO)
CALL(int, ftruncate, "truncate", (int fd, off_t size), (fd, size), fd, NULL, NO)
CALL(int, ftruncate64, "truncate", (int fd, off64_t size), (fd, size), fd, NULL, NO)
CALL(int, fchmod, "chmod", (int fd, mode_t mode), (fd, mode), fd, NULL, NO)
CALL(int, truncate, "truncate", (const char *p, off_t size), (p, size), HERE, p, NO)
CALL(int, truncate64, "truncate", (const char *p, off64_t size), (p, size), HERE, p, NO)
CALL(int, chmod, "chmod", (const char *p, mode_t mode), (p, mode), HERE, p, NO)
CALL(int, fchmodat, "chmod", (int d, const char *p, mode_t mode, int flags), (d, p, mode, flags), d, p, NO)
CALL(int, mkdir, "mkdir", (const char *p, mode_t mode), (p, mode), HERE, p, NO)
CALL(int, mkdirat, "mkdir", (int d, const char *p, mode_t mode), (d, p, mode), d, p, NO)
CALL(int, rmdir, "rmdir", (const char *p), (p), HERE, p, NO)
CALL(int, unlink, "unlink", (const char *p), (p), HERE, p, NO)
CALL(int, unlinkat, "unlink", (int d, const char *p, int flags), (d, p, flags), d, p, NO)
CALL(int, rename, "rename", (const char *p, const char *q), (p, q), HERE, p, HERE, q)
CALL(int, renameat, "rename", (int d, const char *p, int e, const char *q), (d, p, e, q), d, p, e, q)
CALL(int, renameat2, "rename", (int d, const char *p, int e, const char *q, unsigned f), (d, p, e, q, f), d, p, e, q)
CALL(int, link, "link", (const char *p, const char *q), (p, q), HERE, p, HERE, q)
CALL(int, linkat, "link", (int d, const char *p, int e, const char *q, int f), (d, p, e, q, f), d, p, e, q)
CALL(int, symlink, "symlink", (const char *p, const char *q), (p, q), HERE, q, HERE, q)
CALL(int, symlinkat, "symlink", (const char *p, int e, const char *q), (p, e, q), e, q, e, q)
