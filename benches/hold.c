/*
 * hold: opens kept connections and leaves them idle.
 *
 *     cc -O2 -o hold hold.c && ./hold -n 10000 8080
 *
 *   -n N   connections (1000), each with one request when it is opened
 *   -a N   the first of the addresses 127.1.0.N that they come from (1); each serves 5,000 of them, since an address has
 *          about 28,000 ports for clients
 *
 * Prints "holding" when all are open and have had their answer. For each line on its standard input it sends a request on
 * each, and prints how many were answered and how many were not, because the server had closed them or within 10 seconds
 * said nothing. An answer that is not the expected one ends it with an error. At the end of its input it resets all of
 * them, which leaves nothing in TIME_WAIT.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PER_ADDRESS = 5000 };

static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
static const char BODY[] = "\r\n\r\nhello world\n";

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int ask(int fd)
{
    return send(fd, REQUEST, sizeof REQUEST - 1, MSG_NOSIGNAL) == sizeof REQUEST - 1;
}

/* Reads one answer. Returns false if the connection was closed, or nothing came, before the first byte. */
static int hear(int fd)
{
    char in[512];
    size_t have = 0, tail = sizeof BODY - 1;

    while (have < tail || memcmp(in + have - tail, BODY, tail) != 0) {
        ssize_t n = recv(fd, in + have, sizeof in - have, 0);

        if (n <= 0 && have == 0)
            return 0;
        if (n <= 0 || have + (size_t)n == sizeof in) {
            fprintf(stderr, "hold: an answer broke off or was too long after %zu bytes\n", have);
            exit(1);
        }
        have += (size_t)n;
    }
    if (memcmp(in, "HTTP/1.1 200 ", 13) != 0) {
        fprintf(stderr, "hold: unexpected answer: %.13s\n", in);
        exit(1);
    }
    return 1;
}

static int open_one(uint32_t source, int port)
{
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 10};
    struct linger reset = {.l_onoff = 1};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    /* The port is chosen by connect, which knows the destination: so it may be one that another connection uses. */
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (fd < 0 || bind(fd, (struct sockaddr *)&from, sizeof from) < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect");
    if (!ask(fd) || !hear(fd)) {
        fprintf(stderr, "hold: no answer to the first request of a connection\n");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    int count = 1000, address = 1, option, *fds, *asked;
    char line[64];

    while ((option = getopt(argc, argv, "n:a:")) != -1) {
        switch (option) {
        case 'n': count = atoi(optarg); break;
        case 'a': address = atoi(optarg); break;
        default: return 2;
        }
    }
    if (optind != argc - 1 || count < 1 || address < 1 || address + count / PER_ADDRESS > 254)
        return 2;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    fds = calloc((size_t)count, sizeof *fds);
    asked = calloc((size_t)count, sizeof *asked);
    if (fds == NULL || asked == NULL)
        die("calloc");
    for (int i = 0; i < count; i++)
        fds[i] = open_one(0x7f010000 + (uint32_t)(address + i / PER_ADDRESS), atoi(argv[optind]));
    puts("holding");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        int answered = 0;

        for (int i = 0; i < count; i++)
            asked[i] = ask(fds[i]);
        for (int i = 0; i < count; i++)
            answered += asked[i] && hear(fds[i]);
        printf("%d %d\n", answered, count - answered);
        fflush(stdout);
    }
    return 0;
}
