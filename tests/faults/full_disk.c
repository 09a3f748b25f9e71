/* Preloaded: from the n-th call on that would write below a folder, the disk is full (or another error, once). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long calls, first_failure;
static int error_number, once;

/* Fail from call `n` on (1 for the first; 0 never) with an error, or at that call alone. */
void fault_arm(const char *below, long n, int number, int only_once) {
  snprintf(folder, sizeof folder, "%s", below);
  calls = 0, first_failure = n, error_number = number, once = only_once;
}

long fault_calls(void) { return calls; }

static int fails(const char *path) {
  if (folder[0] == 0 || path == NULL || strncmp(path, folder, strlen(folder)) != 0) return 0;
  ++calls;
  if (first_failure == 0 || (once ? calls != first_failure : calls < first_failure)) return 0;
  errno = error_number;
  return 1;
}

static int fails_handle(int handle) {
  char link[64], path[PATH_MAX];
  if (folder[0] == 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return fails(path);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRITING(type, name, parameters, arguments) \
  type name parameters {                           \
    REAL(name);                                    \
    return fails_handle(handle) ? -1 : real arguments; \
  }

WRITING(ssize_t, write, (int handle, const void *data, size_t size), (handle, data, size))
WRITING(ssize_t, pwrite, (int handle, const void *data, size_t size, off_t at), (handle, data, size, at))
WRITING(ssize_t, pwrite64, (int handle, const void *data, size_t size, off64_t at), (handle, data, size, at))
WRITING(ssize_t, writev, (int handle, const struct iovec *parts, int count), (handle, parts, count))
WRITING(int, fsync, (int handle), (handle))
WRITING(int, ftruncate, (int handle, off_t size), (handle, size))
WRITING(int, ftruncate64, (int handle, off64_t size), (handle, size))

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  return fails(path) ? -1 : real(path, mode);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  return fails(to) ? -1 : real(from, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned int flags) {
  REAL(renameat2);
  return fails(to) ? -1 : real(from_folder, from, to_folder, to, flags);
}

#define OPENING(name)                                                       \
  int name(const char *path, int flags, ...) {                              \
    REAL(name);                                                             \
    va_list more;                                                           \
    va_start(more, flags);                                                  \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more);                                                           \
    return (flags & O_CREAT) && fails(path) ? -1 : real(path, flags, mode); \
  }

OPENING(open)
OPENING(open64)
