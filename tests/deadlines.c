/* A host in C whose blocking handler sets the times of its calls, for the tests. */
#include <prefork.h>
#include <stdio.h>
#include <string.h>

static void say(prefork_conn *conn, const char *text)
{
    prefork_conn_write(conn, text, strlen(text));
}

static void on_connection(prefork_conn *conn, void *state)
{
    char text[100], byte;
    int read, again;
    long written;

    (void)state;
    prefork_conn_read(conn, &byte, 1);
    sprintf(text, "invalid %d %d\n", prefork_conn_set_read_timeout(conn, -5),
            prefork_conn_set_deadline(NULL, 5));
    say(conn, text);
    prefork_conn_set_read_timeout(conn, 50);
    prefork_conn_set_write_timeout(conn, 5000);
    read = (int)prefork_conn_read(conn, &byte, 1);
    prefork_conn_set_read_timeout(conn, -1);
    prefork_conn_set_deadline(conn, 50);
    again = (int)prefork_conn_read(conn, &byte, 1);
    prefork_conn_set_deadline(conn, -1);
    prefork_conn_set_write_timeout(conn, -1);
    written = (long)prefork_conn_write(conn, "", 0) + 1;
    sprintf(text, "read %d write %ld read %d\n", read, written, again);
    say(conn, text);
}

static void on_start(const prefork_started *started, void *state)
{
    (void)state;
    printf("listening on http://%s\n", started->addresses[0]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    prefork_server *server = prefork_server_new();
    int status;

    if (argc != 2)
        return 2;
    prefork_server_on_connection(server, on_connection, NULL);
    prefork_server_workers(server, 1);
    prefork_server_listen(server, argv[1]);
    prefork_server_on_start(server, on_start, NULL);
    status = prefork_server_run(server);
    prefork_server_free(server);
    return status != PREFORK_OK;
}
