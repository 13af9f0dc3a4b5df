/*
 * rate: clients that receive or send large bodies, each at a bounded rate.
 *
 *     cc -O2 -o rate rate.c && ./rate -c 50 -r 20 -n 20 down 8080
 *
 *   -c N   clients, each with one connection (50)
 *   -r N   MB a second of each client, 10^6 bytes (20)
 *   -n N   MiB of each body (20)
 *
 * `down` asks for /N, whose body has N bytes; `up` posts as many to /up. A client takes its share every 5 ms, as much as there is.
 * Prints one line of JSON: the seconds, the bytes of all bodies, the failures, and the CPU seconds of this program.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TICK_US = 5000 };

struct client {
    int fd, done;
    size_t head, left; /* bytes of the head to be sent, or of the body to come or to be sent */
    char line[200];
};

static char bytes[1 << 20];

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void start(struct client *client, int port, int up, size_t size)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const char *format = up ? "POST /up HTTP/1.1\r\nHost: b\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n"
                            : "GET /%zu HTTP/1.0\r\nHost: b\r\n\r\n";

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    client->left = size;
    if (connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0) {
        perror("connect");
        exit(1);
    }
    client->head = (size_t)snprintf(client->line, sizeof client->line, format, size);
    if (write(client->fd, client->line, client->head) != (ssize_t)client->head) {
        perror("write");
        exit(1);
    }
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
    client->head = 0;
}

/* Reads to the end of the head, which comes in one piece. */
static ssize_t body_of(struct client *client, ssize_t n)
{
    char *end;

    if (n <= 0 || client->head)
        return n;
    end = memmem(bytes, (size_t)n, "\r\n\r\n", 4);
    client->head = 1;
    if (!end || strncmp(bytes, "HTTP/1.1 200", 12))
        return -2;
    return n - (end + 4 - bytes);
}

int main(int argc, char **argv)
{
    int count = 50, rate = 20, size = 20, up, port, open, failed = 0, i, option;
    struct client *clients;
    struct rusage usage;
    size_t share, total = 0;
    int64_t began, tick;

    while ((option = getopt(argc, argv, "c:r:n:")) != -1)
        *(option == 'c' ? &count : option == 'r' ? &rate : &size) = atoi(optarg);
    if (argc - optind != 2 || count < 1) {
        fputs("usage: rate [-c clients] [-r MB/s] [-n MiB] up|down PORT\n", stderr);
        return 2;
    }
    up = strcmp(argv[optind], "up") == 0;
    port = atoi(argv[optind + 1]);
    clients = calloc((size_t)count, sizeof *clients);
    for (i = 0; i < count; i++)
        start(&clients[i], port, up, (size_t)size << 20);
    share = (size_t)rate * TICK_US;
    began = now_us();
    for (open = count, tick = began; open > 0; tick += TICK_US) {
        while (now_us() < tick)
            usleep((useconds_t)(tick - now_us() > 0 ? tick - now_us() : 0));
        for (i = 0; i < count; i++) {
            struct client *client = &clients[i];
            size_t want = share < sizeof bytes ? share : sizeof bytes;
            ssize_t n;

            if (client->done)
                continue;
            if (up && client->left) {
                n = send(client->fd, bytes, want < client->left ? want : client->left, MSG_NOSIGNAL);
                if (n > 0)
                    client->left -= (size_t)n, total += (size_t)n;
            } else {
                n = body_of(client, recv(client->fd, bytes, want, 0));
                if (n > 0 && !up)
                    client->left -= (size_t)n < client->left ? (size_t)n : client->left, total += (size_t)n;
            }
            if ((n < 0 && errno != EAGAIN) || n == -2 || (n == 0 && !(up && client->left))) {
                failed += n < 0 || client->left > 0;
                client->done = 1;
                open--;
                close(client->fd);
            }
        }
    }
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"seconds\": %.3f, \"bytes\": %zu, \"failed\": %d, \"cpu\": %.3f}\n", (double)(now_us() - began) / 1e6, total, failed,
           (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    return failed > 0;
}
