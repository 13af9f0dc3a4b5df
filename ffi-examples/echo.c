/* A stream: sends clients their bytes back, for thousands of clients in one worker.
 *
 *     cc -shared -fPIC -O2 echo.c -o echo.so && prefork ./echo.so
 *     nc 127.0.0.1 8080
 */
#include <prefork.h>

/* Called when bytes have arrived. Nothing here waits: prefork keeps what the client does not take yet. While that
 * is more than half of the setting max-pending, nothing more is read, so that a write of what was read fits. */
static void echo(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);

    (void)state;
    if (prefork_conn_write(conn, in.data, in.len) < 0)
        prefork_conn_close(conn);
    prefork_conn_consume(conn, in.len);
}

PREFORK_MODULE(.on_data = echo)
