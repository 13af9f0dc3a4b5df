/* The smallest module: every request is answered with "hello world".
 *
 *     cc -shared -fPIC -O2 hello.c -o hello.so && prefork ./hello.so
 *     curl http://127.0.0.1:8080/
 */
#include <prefork.h>

static void hello(prefork_request *req, prefork_response *res, void *state)
{
    (void)req;
    (void)state;
    prefork_response_body(res, "hello world\n", 12);
}

PREFORK_MODULE(.on_request = hello)
