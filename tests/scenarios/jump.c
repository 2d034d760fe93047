/* A host whose clock was jumped: the time of day of every process that this library is preloaded into.
 *
 * Time namespaces do not move CLOCK_REALTIME, and setting the machine's own clock would jump it for everybody. An
 * offset inside our own Clock would leave out PostgreSQL and the object store client's signatures; this does not.
 * THREEFOLD_TEST_JUMP names a file of 8 bytes, the offset in seconds, mapped: a change of it is a jump from one moment
 * to the next. What counts from a fixed moment (CLOCK_MONOTONIC) is passed on as it is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;

__attribute__((constructor)) static void find(void)
{
    const char *name = getenv("THREEFOLD_TEST_JUMP");
    int file = name ? open(name, O_RDONLY) : -1;
    if (file < 0)
        return;
    void *at = mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (at != MAP_FAILED)
        offset = at;
}

static int64_t jumped(void) { return offset ? *offset : 0; }

int clock_gettime(clockid_t clock, struct timespec *at)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, at);
    if (answer == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += jumped();
    return answer;
}

int gettimeofday(struct timeval *at, void *zone)
{
    static int (*real)(struct timeval *, void *);
    if (!real)
        real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int answer = real(at, zone);
    if (answer == 0 && at)
        at->tv_sec += jumped();
    return answer;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
