/* Answers with files below the folder in the variable ROOT: /below/PATH by prefork_response_send_below(), /PATH by
 * prefork_response_send_file(); /own with a content type of its own, /page with a body of its own if there is no file. */
#include <prefork.h>

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    const char *root = getenv("ROOT");
    prefork_slice path = prefork_request_path(req);
    char name[4096];
    int status;

    (void)state;
    if (path.len > 6 && memcmp(path.data, "/below", 6) == 0) {
        path.data += 6;
        path.len -= 6;
        prefork_response_send_below(req, res, root, path);
        return;
    }
    if (prefork_slice_is(path, "/own"))
        prefork_response_header(res, "Content-Type", "text/x-own");
    if (prefork_slice_is(path, "/late")) {
        prefork_response_write(res, "x", 1);
        prefork_response_printf(res, "%d", prefork_response_send_file(req, res, "/dev/null"));
        return;
    }
    snprintf(name, sizeof name, "%s%.*s", root, (int)path.len, path.data);
    status = prefork_response_send_file(req, res, name);
    if (prefork_slice_is(path, "/page"))
        prefork_response_printf(res, "status %d", status);
}

PREFORK_MODULE(.on_request = on_request)
