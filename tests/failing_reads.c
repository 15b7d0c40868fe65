/* Preloaded: makes reads of files fail, as those of a network disk do now and then.

   FAIL_FILES  only files whose path holds this text
   FAIL_READ   the number of the read to fail, from 0, of each process
   FAIL_SHARE  or the share of all reads to fail, in percent
   FAIL_FROM   or the number of the first of those that fail
   FAIL_HANG   set: do not fail, but never come back
   FAIL_ERRNO  what to fail with (5: EIO)
   FAIL_COUNT  a file that gets one byte for each read of such a file
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_meant(int fd) {
    const char *text = getenv("FAIL_FILES");
    char link[64], path[4096];
    if (!text) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, text) != NULL;
}

static int fails(int fd) {
    static unsigned number = 0;
    if (!is_meant(fd)) return 0;
    unsigned mine = __atomic_fetch_add(&number, 1, __ATOMIC_RELAXED);
    const char *read = getenv("FAIL_READ"), *share = getenv("FAIL_SHARE"), *code = getenv("FAIL_ERRNO");
    const char *count = getenv("FAIL_COUNT"), *from = getenv("FAIL_FROM");
    if (count) {
        int log = open(count, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (log < 0 || write(log, ".", 1) != 1) abort();
        close(log);
    }
    int yes = (read && mine == (unsigned)atoi(read)) || (from && mine >= (unsigned)atoi(from)) ||
              (share && (mine * 2654435761u >> 16) % 100 < (unsigned)atoi(share));
    if (yes && getenv("FAIL_HANG"))
        for (;;) pause();
    if (yes) errno = code ? atoi(code) : EIO;
    return yes;
}

#define WRAP(name, parameters, arguments)                                 \
    ssize_t name parameters {                                             \
        static ssize_t(*real) parameters;                                 \
        if (!real) real = (ssize_t(*) parameters)dlsym(RTLD_NEXT, #name); \
        return fails(fd) ? -1 : real arguments;                           \
    }

WRAP(read, (int fd, void *bytes, size_t size), (fd, bytes, size))
WRAP(pread, (int fd, void *bytes, size_t size, off_t start), (fd, bytes, size, start))
WRAP(pread64, (int fd, void *bytes, size_t size, off64_t start), (fd, bytes, size, start))
