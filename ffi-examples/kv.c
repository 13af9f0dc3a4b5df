/* Keys and values in SQLite: PUT /KEY stores the body, GET /KEY returns it, DELETE /KEY removes it.
 *
 *     cc -shared -fPIC -O2 kv.c -o kv.so -lsqlite3 && prefork ./kv.so FILE.db
 *     echo blue | curl -T - http://127.0.0.1:8080/color && curl http://127.0.0.1:8080/color
 *
 * Each worker has a state of its own: its connection to the database, which must not be shared by processes that fork,
 * and its statements. SQLite's write-ahead log lets all of them read while one writes.
 */
#include <prefork.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

struct store {
    sqlite3 *db;
    sqlite3_stmt *get, *put, *del;
};

static void close_store(struct store *store)
{
    sqlite3_finalize(store->get);
    sqlite3_finalize(store->put);
    sqlite3_finalize(store->del);
    sqlite3_close(store->db);
    free(store);
}

/* After the fork, in each worker. What is printed here is told by `prefork reload` if it fails. */
static int start(prefork_worker *worker, void **state)
{
    static const char schema[] = "PRAGMA journal_mode = WAL;"
                                 "CREATE TABLE IF NOT EXISTS kv(key BLOB PRIMARY KEY, value BLOB)";
    const char *file = prefork_worker_arg(worker, 0);
    struct store *store = calloc(1, sizeof *store);

    if (!file || !store) {
        fprintf(stderr, "expected the file of a database: prefork ./kv.so FILE.db\n");
        free(store);
        return 1;
    }
    if (sqlite3_open(file, &store->db) || sqlite3_busy_timeout(store->db, 5000) ||
        sqlite3_exec(store->db, schema, NULL, NULL, NULL) ||
        sqlite3_prepare_v2(store->db, "SELECT value FROM kv WHERE key = ?1", -1, &store->get, NULL) ||
        sqlite3_prepare_v2(store->db, "REPLACE INTO kv VALUES(?1, ?2)", -1, &store->put, NULL) ||
        sqlite3_prepare_v2(store->db, "DELETE FROM kv WHERE key = ?1", -1, &store->del, NULL)) {
        fprintf(stderr, "%s: %s\n", file, sqlite3_errmsg(store->db));
        close_store(store);
        return 1;
    }
    *state = store;
    return 0;
}

static void stop(prefork_worker *worker, void *state)
{
    (void)worker;
    close_store(state);
}

static sqlite3_stmt *statement(struct store *store, prefork_slice method)
{
    if (prefork_slice_is(method, "PUT"))
        return store->put;
    return prefork_slice_is(method, "GET") ? store->get : prefork_slice_is(method, "DELETE") ? store->del : NULL;
}

static void answer(prefork_request *req, prefork_response *res, void *state)
{
    struct store *store = state;
    prefork_slice key = prefork_request_path(req), value = prefork_request_body(req);
    sqlite3_stmt *run = statement(store, prefork_request_method(req));

    if (!run) {
        prefork_response_header(res, "Allow", "GET, PUT, DELETE");
        prefork_response_status(res, 405);
        return;
    }
    sqlite3_bind_blob64(run, 1, key.data, key.len, SQLITE_STATIC); /* borrowed until the reset below */
    if (run == store->put)
        sqlite3_bind_blob64(run, 2, value.data ? value.data : "", value.len, SQLITE_STATIC);
    switch (sqlite3_step(run)) {
    case SQLITE_ROW:
        prefork_response_body(res, sqlite3_column_blob(run, 0), (size_t)sqlite3_column_bytes(run, 0));
        break;
    case SQLITE_DONE:
        prefork_response_status(res, run == store->put || (run == store->del && sqlite3_changes(store->db)) ? 204 : 404);
        break;
    default:
        fprintf(stderr, "%s\n", sqlite3_errmsg(store->db));
        prefork_response_fail(res);
    }
    sqlite3_reset(run);
    sqlite3_clear_bindings(run);
}

PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_request = answer)
