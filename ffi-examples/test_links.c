/* The unit tests of links.c: its handler in this process, without a server, a port or waiting.
 *
 *     cc -g test_links.c links.c -o test_links $(pkg-config --cflags --libs prefork) && ./test_links
 *     valgrind --leak-check=full ./test_links
 */
#undef NDEBUG
#include <assert.h>
#include <prefork.h>
#include <stdio.h>
#include <string.h>

/* What PREFORK_MODULE defines in links.c. */
extern const struct prefork_module prefork_module;

static int ask(prefork_test *test, const char *method, const char *path, const char *body)
{
    return prefork_test_request(test, method, path, body, body ? strlen(body) : 0);
}

static int is(prefork_slice slice, const char *text)
{
    return slice.len == strlen(text) && memcmp(slice.data, text, slice.len) == 0;
}

static void a_link_leads_to_its_url(void)
{
    prefork_test *test = prefork_test_new(&prefork_module, NULL);

    assert(ask(test, "PUT", "/name", "https://example.org/") == 201);
    assert(ask(test, "GET", "/name", NULL) == 302);
    assert(is(prefork_test_header(test, "Location"), "https://example.org/"));
    assert(ask(test, "GET", "/other", NULL) == 404);
    assert(ask(test, "PUT", "/name", "https://example.com/") == 409);
    prefork_test_free(test);
}

static void it_ends_after_an_hour(void)
{
    prefork_test *test = prefork_test_new(&prefork_module, NULL);

    assert(ask(test, "PUT", "/name", "https://example.org/") == 201);
    assert(prefork_test_advance(test, 3599 * 1000) == PREFORK_OK);
    assert(ask(test, "GET", "/name", NULL) == 302);
    assert(prefork_test_advance(test, 1000) == PREFORK_OK);
    assert(ask(test, "GET", "/name", NULL) == 404);
    prefork_test_free(test);
}

static void a_url_that_is_no_header_is_no_link(void)
{
    prefork_test *test = prefork_test_new(&prefork_module, NULL);

    assert(ask(test, "PUT", "/bad", "two\r\nlines") == 201);
    assert(ask(test, "GET", "/bad", NULL) == 404);
    assert(!prefork_test_header(test, "Location").data);
    prefork_test_free(test);
}

static void there_are_a_hundred_at_most(void)
{
    prefork_test *test = prefork_test_new(&prefork_module, NULL);
    char path[16];

    for (int i = 0; i < 100; i++) {
        snprintf(path, sizeof path, "/%d", i);
        assert(ask(test, "PUT", path, "https://example.org/") == 201);
    }
    assert(ask(test, "PUT", "/one-more", "https://example.org/") == 507);
    prefork_test_free(test);
}

int main(void)
{
    a_link_leads_to_its_url();
    it_ends_after_an_hour();
    a_url_that_is_no_header_is_no_link();
    there_are_a_hundred_at_most();
    puts("all passed");
    return 0;
}
