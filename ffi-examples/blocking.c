/* Classic prefork: one connection per worker at a time, read and written as if there were no other.
 * Each line is answered with its number and the worker's slot. At most one client per worker is served at a time;
 * the others wait in the kernel.
 *
 *     cc -shared -fPIC -O2 blocking.c -o blocking.so && prefork --workers 16 ./blocking.so
 *     nc 127.0.0.1 8080
 */
#include <prefork.h>
#include <stdio.h>
#include <string.h>

static unsigned slot;

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    slot = prefork_worker_slot(worker);
    return 0;
}

static void serve(prefork_conn *conn, void *state)
{
    char in[4096], out[4200];
    size_t have = 0;
    unsigned line = 0;
    ptrdiff_t n;

    (void)state;
    while (have < sizeof in && (n = prefork_conn_read(conn, in + have, sizeof in - have)) > 0) {
        char *rest = in, *end;

        have += (size_t)n;
        while ((end = memchr(rest, '\n', have)) != NULL) {
            int len = snprintf(out, sizeof out, "%u [worker %u] %.*s\n", ++line, slot, (int)(end - rest), rest);

            if (prefork_conn_write(conn, out, (size_t)len) < 0)
                return;
            have -= (size_t)(end + 1 - rest);
            rest = end + 1;
        }
        memmove(in, rest, have);
    }
}

PREFORK_MODULE(.worker_start = start, .on_connection = serve)
