/* Answers with what it looks up in requests.
 *
 *     /query, /form, /cookies   "name=value;" of each, then the first `a`, the second `a`, and the third
 *     /parts                    the parts of a form: "name (file, type): bytes;"
 *     /pieces                   the same of a form that is taken in pieces
 *     /slices                   what the functions for slices say of `X-Text`, and the values of `X-List`
 *     /printf                   formatted texts
 *     /null                     what calls return that are given NULL
 *     /type/NAME                the content type of NAME
 */
#include <prefork.h>

#define S(slice) (int)(slice).len, (slice).data

typedef prefork_slice (*by_index)(const prefork_request *, size_t);
typedef prefork_slice (*by_name)(const prefork_request *, const char *);
typedef prefork_slice (*by_both)(const prefork_request *, const char *, size_t);

static void pairs(prefork_request *req, prefork_response *res, size_t count, by_index name, by_index value,
                  by_name get, by_both nth)
{
    prefork_slice first = get(req, "a"), third = nth(req, "a", 2);
    size_t i;

    for (i = 0; i < count; i++)
        prefork_response_printf(res, "%.*s=%.*s;", S(name(req, i)), S(value(req, i)));
    prefork_response_printf(res, " %.*s %.*s %s", S(first), S(nth(req, "a", 1)), third.data ? "some" : "none");
    if (name(req, count).data || value(req, count).data || get(req, "none").data)
        prefork_response_printf(res, " too many");
}

static void parts(prefork_request *req, prefork_response *res)
{
    prefork_part part;
    size_t i;
    int status;

    part.size = sizeof part;
    for (i = 0; (status = prefork_request_part(req, i, &part)) == PREFORK_OK; i++)
        prefork_response_printf(res, "%.*s (%.*s, %.*s): %.*s;", S(part.name), S(part.filename),
                                S(part.content_type), S(part.data));
    prefork_response_printf(res, " %d", status);
}

/* A form in pieces. */
struct form {
    prefork_multipart *reader;
    char text[4096];
    size_t len;
    int event;
};

static void release(void *user)
{
    struct form *form = user;

    prefork_multipart_free(form->reader);
    free(form);
}

static int on_head(prefork_request *req, prefork_response *res, void *state)
{
    struct form *form;

    (void)state;
    if (!prefork_slice_is(prefork_request_path(req), "/pieces"))
        return 0;
    form = calloc(1, sizeof *form);
    form->reader = prefork_multipart_new(req);
    prefork_request_set_user(req, form, release);
    if (form->reader)
        return 1;
    prefork_response_status(res, 415);
    return -1;
}

static void on_body(prefork_request *req, const void *data, size_t size, int last, void *state)
{
    struct form *form = prefork_request_user(req);
    prefork_part part;
    char *to = form->text;

    (void)state;
    (void)last;
    part.size = sizeof part;
    form->event = prefork_multipart_feed(form->reader, data, size);
    while (form->event >= 0 && (form->event = prefork_multipart_next(form->reader, &part)) > 0) {
        size_t room = sizeof form->text - form->len;
        if (form->event == PREFORK_PART_BEGIN)
            form->len += snprintf(to + form->len, room, "%.*s (%.*s, %.*s): ", S(part.name), S(part.filename),
                                  S(part.content_type));
        else if (form->event == PREFORK_PART_DATA)
            form->len += snprintf(to + form->len, room, "%.*s", S(part.data));
        else
            form->len += snprintf(to + form->len, room, ";");
    }
}

static void slices(prefork_request *req, prefork_response *res)
{
    prefork_slice text = prefork_request_header_n(req, "X-Text!", 6), none = prefork_request_header(req, "None"), value;
    char *copy = prefork_slice_dup(text), *no = prefork_slice_dup(none);
    size_t i;

    prefork_response_header_n(res, "X-Copy!", 6, text.data, text.len);
    prefork_response_printf(res, "%d%d%d%d%d", prefork_slice_is(text, "Text"), prefork_slice_is(text, "text"),
                            prefork_slice_is(text, "Tex"), prefork_slice_is(none, ""), prefork_slice_is(text, NULL));
    prefork_response_printf(res, " %d%d%d%d", prefork_slice_is_nocase(text, "tEXT"),
                            prefork_slice_is_nocase(text, "tEX"), prefork_slice_is_nocase(text, "t\205xt"),
                            prefork_slice_is_nocase(none, ""));
    prefork_response_printf(res, " %s %d", copy, no == NULL);
    for (i = 0; (value = prefork_request_header_nth(req, "x-list", i)).data; i++)
        prefork_response_printf(res, " [%.*s]", S(value));
    prefork_response_printf(res, " %d", prefork_response_header_n(res, "X", 1, "late", 4));
    free(copy);
    free(no);
}

static void nulls(prefork_request *req, prefork_response *res)
{
    prefork_part part;
    prefork_slice none = {NULL, 0}, lie = {NULL, 1};
    int calls[9], i;

    part.size = 0;
    calls[0] = prefork_response_printf(NULL, "x");
    calls[1] = (int)prefork_conn_printf(NULL, "x");
    calls[2] = prefork_request_part(req, 0, NULL);
    calls[3] = prefork_request_part(req, 0, &part);
    calls[4] = prefork_multipart_feed(NULL, "", 0);
    calls[5] = prefork_response_header_n(res, "X", 1, NULL, 1);
    calls[6] = prefork_response_header_n(res, "\377", 1, "x", 1);
    calls[7] = prefork_response_send_below(req, res, NULL, none);
    calls[8] = prefork_response_send_below(req, res, "/", lie);
    prefork_multipart_free(NULL);
    for (i = 0; i < 9; i++)
        prefork_response_printf(res, "%d ", calls[i]);
    prefork_response_printf(res, "%s", prefork_content_type(NULL));
}

static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);
    struct form *form = prefork_request_user(req);

    (void)state;
    if (form)
        prefork_response_printf(res, "%s %d", form->text, form->event);
    else if (prefork_slice_is(path, "/query"))
        pairs(req, res, prefork_request_query_count(req), prefork_request_query_name, prefork_request_query_value,
              prefork_request_query_get, prefork_request_query_nth);
    else if (prefork_slice_is(path, "/form"))
        pairs(req, res, prefork_request_form_count(req), prefork_request_form_name, prefork_request_form_value,
              prefork_request_form_get, prefork_request_form_nth);
    else if (prefork_slice_is(path, "/cookies"))
        pairs(req, res, prefork_request_cookie_count(req), prefork_request_cookie_name,
              prefork_request_cookie_value, prefork_request_cookie_get, prefork_request_cookie_nth);
    else if (prefork_slice_is(path, "/parts"))
        parts(req, res);
    else if (prefork_slice_is(path, "/slices"))
        slices(req, res);
    else if (prefork_slice_is(path, "/null"))
        nulls(req, res);
    else if (prefork_slice_is(path, "/printf")) {
        /* Shorter than the buffer on the stack, as long, one more, and much longer. */
        static const int widths[] = {3, 1023, 1024, 100000};
        int i;
        prefork_response_status(res, 201);
        for (i = 0; i < 4; i++)
            prefork_response_printf(res, "%*d", widths[i], i);
    } else {
        char *copy = prefork_slice_dup(path);
        if (prefork_content_type_n(path.data, path.len) == prefork_content_type(copy))
            prefork_response_printf(res, "%s", prefork_content_type(copy));
        free(copy);
    }
}

PREFORK_MODULE(.on_head = on_head, .on_body = on_body, .on_request = on_request)
