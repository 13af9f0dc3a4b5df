/* A handler in C++: one object per worker, std::string, and exceptions that end at the border.
 *
 *     c++ -shared -fPIC hello.cpp -o hello.so $(pkg-config --cflags prefork) && prefork ./hello.so GREETING
 *     curl 'localhost:8080/?name=you'     GREETING you, for the 1st time
 *     curl -d name=you localhost:8080/    the same from a form
 */
#include <prefork.h>

#include <map>
#include <memory>
#include <stdexcept>
#include <string>

/* A slice that may be missing, as a string. */
static std::string string_of(prefork_slice slice, const std::string &otherwise = "")
{
    return slice.data ? std::string(slice.data, slice.len) : otherwise;
}

/* The state of a worker. Made in `worker_start`, after the fork, it owns what it opens: a destructor closes that. */
class Greeter {
  public:
    explicit Greeter(const prefork_worker *worker)
    {
        if (prefork_worker_arg_count(worker) > 1)
            throw std::invalid_argument("one greeting, please");
        if (const char *word = prefork_worker_arg(worker, 0))
            greeting = word;
    }

    std::string answer(const prefork_request *req)
    {
        const bool is_form = prefork_slice_is(prefork_request_method(req), "POST");
        const auto get = is_form ? prefork_request_form_get : prefork_request_query_get;
        const std::string name = string_of(get(req, "name"));
        if (name.empty())
            throw std::invalid_argument("a name is missing");
        return greeting + " " + name + ", for the " + nth(++visits[name]) + " time\n";
    }

  private:
    static std::string nth(unsigned n)
    {
        static const char *const endings[] = {"th", "st", "nd", "rd"};
        const unsigned last = n % 100 / 10 == 1 || n % 10 > 3 ? 0 : n % 10;
        return std::to_string(n) + endings[last];
    }

    std::string greeting = "hello";
    std::map<std::string, unsigned> visits;
};

/* No exception may leave a callback: each ends here, as a response or as a line of the log. */
static int start(prefork_worker *worker, void **state)
try {
    *state = new Greeter(worker);
    return 0;
} catch (const std::invalid_argument &wrong) {
    fprintf(stderr, "hello: %s\n", wrong.what());
    _Exit(78); /* EX_CONFIG: another try would end the same way */
}

static void stop(prefork_worker *, void *state)
{
    delete static_cast<Greeter *>(state);
}

static void respond(prefork_response *res, unsigned status, std::string text)
{
    /* The response owns the string until it is sent. */
    std::unique_ptr<std::string> body(new std::string(std::move(text)));
    const auto release = [](void *owner) { delete static_cast<std::string *>(owner); };
    prefork_response_status(res, status);
    prefork_response_header(res, "Content-Type", "text/plain; charset=utf-8");
    const std::string *bytes = body.get();
    prefork_response_body_owned(res, bytes->data(), bytes->size(), release, body.release());
}

static void request(prefork_request *req, prefork_response *res, void *state)
try {
    respond(res, 200, static_cast<Greeter *>(state)->answer(req));
} catch (const std::invalid_argument &wrong) {
    respond(res, 400, std::string(wrong.what()) + "\n");
} catch (const std::exception &e) {
    fprintf(stderr, "hello: %s\n", e.what());
    prefork_response_fail(res);
}

PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_request = request)
