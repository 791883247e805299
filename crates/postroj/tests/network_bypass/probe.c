// What network_bypass.rs does inside of machines, and against them: one verb each. Prints what it
// found, and "ok" at the end where nothing was wrong.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            printf("line %d: %s: %s\n", __LINE__, #condition, strerror(errno));                   \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

static struct sockaddr_in at(const char *address, const char *port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    CHECK(inet_pton(AF_INET, address, &to.sin_addr) == 1);
    return to;
}

static int try_connect(int fd, struct sockaddr_in to) {
    return connect(fd, (struct sockaddr *)&to, sizeof to);
}

static int tcp(int flags) { return socket(AF_INET, SOCK_STREAM | flags, 0); }

static void echoes(int fd) {
    char buffer[5] = "";
    CHECK(write(fd, "hello", 5) == 5);
    CHECK(recv(fd, buffer, 5, MSG_WAITALL) == 5);
    CHECK(!memcmp(buffer, "hello", 5));
}

// A connection that keeps the socket's options, and ends by halves.
static void connects(struct sockaddr_in to) {
    int fd = tcp(SOCK_CLOEXEC), one = 1, value = 0;
    socklen_t length = sizeof value;
    struct timeval limit = {.tv_sec = 20};
    CHECK(!setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    CHECK(!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    CHECK(!try_connect(fd, to));
    CHECK(!getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length) && value);
    CHECK(!getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &(socklen_t){sizeof limit}));
    CHECK(limit.tv_sec == 20);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    struct sockaddr_in peer;
    length = sizeof peer;
    CHECK(!getpeername(fd, (struct sockaddr *)&peer, &length));
    CHECK(peer.sin_addr.s_addr == to.sin_addr.s_addr && peer.sin_port == to.sin_port);
    CHECK(try_connect(fd, to) == -1 && errno == EISCONN);
    echoes(fd);
    CHECK(!shutdown(fd, SHUT_WR));
    char rest;
    CHECK(read(fd, &rest, 1) == 0);
}

// connect(2) that does not wait, registered in epoll before and after.
static void does_not_wait(struct sockaddr_in to) {
    for (int early = 0; early < 2; early++) {
        int fd = tcp(SOCK_NONBLOCK), epoll = epoll_create1(0), error = 0;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u64 = 77};
        if (early) CHECK(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
        int begun = try_connect(fd, to);
        CHECK(begun == 0 || errno == EINPROGRESS);
        if (!early) CHECK(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
        struct epoll_event found;
        do {
            CHECK(epoll_wait(epoll, &found, 1, 20000) == 1);
            CHECK(found.data.u64 == 77);
        } while (!(found.events & EPOLLOUT));
        CHECK(!getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error}) && !error);
        CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
        CHECK(write(fd, "hello", 5) == 5);
        do {
            CHECK(epoll_wait(epoll, &found, 1, 20000) == 1);
        } while (!(found.events & EPOLLIN));
        // It is still known under its descriptor, and under nothing else.
        event.events = EPOLLIN;
        CHECK(!epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
        CHECK(!epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL));
        CHECK(epoll_wait(epoll, &found, 1, 0) == 0);
        close(fd);
        close(epoll);
    }
}

// Errors are the ones that the network has, and a socket can be used again after them.
static void refused(struct sockaddr_in closed, struct sockaddr_in to) {
    int fd = tcp(0);
    CHECK(try_connect(fd, closed) == -1 && errno == ECONNREFUSED);
    CHECK(!try_connect(fd, to));
    echoes(fd);
    close(fd);
    fd = tcp(SOCK_NONBLOCK);
    if (try_connect(fd, closed) == -1 && errno == EINPROGRESS) {
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        CHECK(poll(&wait, 1, 20000) == 1);
        CHECK(try_connect(fd, closed) == -1 && errno == ECONNREFUSED);
    } else {
        CHECK(errno == ECONNREFUSED);
    }
    int begun = try_connect(fd, to);
    CHECK(begun == 0 || errno == EINPROGRESS);
    close(fd);
}

static void datagrams(struct sockaddr_in to) {
    char buffer[64];
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    struct timeval limit = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    CHECK(sendto(fd, "one", 3, 0, (struct sockaddr *)&to, sizeof to) == 3);
    CHECK(recvfrom(fd, buffer, 64, 0, (struct sockaddr *)&from, &length) == 3);
    CHECK(from.sin_addr.s_addr == to.sin_addr.s_addr && from.sin_port == to.sin_port);
    struct iovec parts[2] = {{"tw", 2}, {"o", 1}};
    struct msghdr header = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = parts, .msg_iovlen = 2};
    CHECK(sendmsg(fd, &header, 0) == 3);
    CHECK(recv(fd, buffer, 64, 0) == 3 && !memcmp(buffer, "two", 3));
    struct mmsghdr many[2] = {{.msg_hdr = header}, {.msg_hdr = header}};
    CHECK(sendmmsg(fd, many, 2, 0) == 2 && many[1].msg_len == 3);
    CHECK(recv(fd, buffer, 64, 0) == 3 && recv(fd, buffer, 64, 0) == 3);
    close(fd);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    CHECK(!try_connect(fd, to));
    CHECK(send(fd, "three", 5, 0) == 5 && recv(fd, buffer, 64, 0) == 5);
    header.msg_name = NULL;
    CHECK(sendmsg(fd, &header, 0) == 3 && recv(fd, buffer, 64, 0) == 3);
    many[0].msg_hdr = many[1].msg_hdr = header;
    CHECK(sendmmsg(fd, many, 2, 0) == 2);
    CHECK(recv(fd, buffer, 64, 0) == 3 && recv(fd, buffer, 64, 0) == 3);
}

static void *one_connection(void *to) {
    int fd = tcp(0);
    CHECK(!try_connect(fd, *(struct sockaddr_in *)to));
    echoes(fd);
    return NULL;
}

// So many at a time, half of them by calls that wait.
static void many(struct sockaddr_in to, int count) {
    int *fds = calloc(count, sizeof *fds);
    pthread_t *threads = calloc(count, sizeof *threads);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (int i = 0; i < count / 2; i++) {
        fds[i] = tcp(SOCK_NONBLOCK);
        CHECK(fds[i] >= 0);
        CHECK(try_connect(fds[i], to) == 0 || errno == EINPROGRESS);
        CHECK(!pthread_create(&threads[i], &small, one_connection, &to));
    }
    for (int i = 0; i < count / 2; i++) {
        struct pollfd wait = {.fd = fds[i], .events = POLLOUT};
        CHECK(poll(&wait, 1, 60000) == 1);
        CHECK(!fcntl(fds[i], F_SETFL, 0));
        echoes(fds[i]);
        pthread_join(threads[i], NULL);
    }
}

// A server of the machine's own, on its loopback device.
static void own_loopback(const char *port) {
    struct sockaddr_in here = at("127.0.0.1", port);
    int listener = tcp(0), fd = tcp(0);
    CHECK(!bind(listener, (struct sockaddr *)&here, sizeof here) && !listen(listener, 5));
    CHECK(!try_connect(fd, here));
    int accepted = accept(listener, NULL, NULL);
    CHECK(accepted >= 0 && write(accepted, "x", 1) == 1);
    char byte;
    CHECK(read(fd, &byte, 1) == 1);
    int datagram = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(!bind(datagram, (struct sockaddr *)&here, sizeof here));
    CHECK(sendto(datagram, "x", 1, 0, (struct sockaddr *)&here, sizeof here) == 1);
    CHECK(recv(datagram, &byte, 1, 0) == 1);
}

// Each address must lead nowhere.
static void refuses(const char *address, const char *port) {
    struct sockaddr_in to = at(address, port);
    int fd = tcp(0);
    CHECK(try_connect(fd, to) == -1);
    printf("tcp %s\n", strerrorname_np(errno));
    // The same through a socket that takes both kinds of addresses.
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = to.sin_port};
    char text[64];
    snprintf(text, sizeof text, "::ffff:%s", address);
    CHECK(inet_pton(AF_INET6, text, &mapped.sin6_addr) == 1);
    fd = socket(AF_INET6, SOCK_STREAM, 0);
    CHECK(connect(fd, (struct sockaddr *)&mapped, sizeof mapped) == -1);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    // On the loopback device it goes to the machine's own port, where nobody is.
    if (sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof to) == 1) printf("udp inside\n");
    fd = tcp(0);
    CHECK(sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&to, sizeof to) == -1);
    CHECK(errno == EOPNOTSUPP);
    long ring = syscall(SYS_io_uring_setup, 4, text);
    CHECK(ring == -1 && errno == EPERM);
}

static struct sockaddr_in shared;
static struct sockaddr_in good, bad;
static volatile int racing = 1;

static void *rewrite(void *unused) {
    (void)unused;
    while (racing) {
        memcpy(&shared, &bad, sizeof bad);
        __asm__ volatile("" ::: "memory");
        memcpy(&shared, &good, sizeof good);
        __asm__ volatile("" ::: "memory");
    }
    return NULL;
}

// A thread rewrites the address all the time: a connection to the good one or none.
static void races(int seconds) {
    pthread_t thread;
    shared = good;
    CHECK(!pthread_create(&thread, NULL, rewrite, NULL));
    time_t end = time(NULL) + seconds;
    int made = 0, datagram = socket(AF_INET, SOCK_DGRAM, 0);
    struct iovec part = {"race", 4};
    struct msghdr header = {.msg_name = &shared, .msg_namelen = sizeof shared, .msg_iov = &part, .msg_iovlen = 1};
    while (time(NULL) < end) {
        int fd = tcp(0);
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        if (!connect(fd, (struct sockaddr *)&shared, sizeof shared)) {
            made++;
            CHECK(!getpeername(fd, (struct sockaddr *)&peer, &length));
            CHECK(peer.sin_addr.s_addr == good.sin_addr.s_addr && peer.sin_port == good.sin_port);
        }
        close(fd);
        sendto(datagram, "race", 4, 0, (struct sockaddr *)&shared, sizeof shared);
        sendmsg(datagram, &header, 0);
    }
    racing = 0;
    pthread_join(thread, NULL);
    CHECK(made > 0);
    printf("connected\n");
}

static void *swap(void *arguments) {
    int *fds = arguments;
    while (racing) {
        dup2(fds[1], fds[0]);
        dup2(fds[2], fds[0]);
    }
    return NULL;
}

// A thread puts a socket of the host's under the descriptor of another kind of socket, whose
// calls the kernel makes: no connection to the bad one may come of it.
static void swaps(int seconds) {
    pthread_t thread;
    int local = socket(AF_UNIX, SOCK_STREAM, 0), outer = tcp(0), number = dup(local);
    CHECK(!try_connect(outer, good));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    CHECK(!connect(outer, &none, sizeof none));
    CHECK(!fcntl(outer, F_SETFL, O_NONBLOCK));
    int fds[3] = {number, outer, local};
    CHECK(!pthread_create(&thread, NULL, swap, fds));
    time_t end = time(NULL) + seconds;
    while (time(NULL) < end) {
        connect(number, (struct sockaddr *)&bad, sizeof bad);
        struct tcp_info info;
        socklen_t length = sizeof info;
        if (!getsockopt(outer, IPPROTO_TCP, TCP_INFO, &info, &length)) {
            struct sockaddr_in peer;
            length = sizeof peer;
            if (info.tcpi_state == TCP_ESTABLISHED &&
                !getpeername(outer, (struct sockaddr *)&peer, &length))
                CHECK(peer.sin_port != bad.sin_port);
        }
    }
    racing = 0;
    pthread_join(thread, NULL);
}

static void *echo(void *argument) {
    int fd = (int)(long)argument;
    char buffer[4096];
    ssize_t length;
    while ((length = read(fd, buffer, sizeof buffer)) > 0)
        if (write(fd, buffer, length) != length) break;
    close(fd);
    return NULL;
}

// Answers on both transports until it is killed; says its port when it is ready.
static void serve(const char *address, const char *port) {
    struct sockaddr_in here = at(address, port);
    int listener = tcp(0), datagram = socket(AF_INET, SOCK_DGRAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    CHECK(!bind(listener, (struct sockaddr *)&here, sizeof here) && !listen(listener, 4096));
    socklen_t length = sizeof here;
    CHECK(!getsockname(listener, (struct sockaddr *)&here, &length));
    CHECK(!bind(datagram, (struct sockaddr *)&here, sizeof here));
    CHECK(!getsockname(datagram, (struct sockaddr *)&here, &length));
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    struct pollfd polled[2] = {{.fd = listener, .events = POLLIN}, {.fd = datagram, .events = POLLIN}};
    for (;;) {
        CHECK(poll(polled, 2, -1) > 0);
        if (polled[0].revents) {
            int fd = accept(listener, NULL, NULL);
            pthread_t thread;
            if (fd >= 0) CHECK(!pthread_create(&thread, &small, echo, (void *)(long)fd));
        }
        if (polled[1].revents) {
            char buffer[2048];
            struct sockaddr_in from;
            length = sizeof from;
            ssize_t got = recvfrom(datagram, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length);
            if (got >= 0) sendto(datagram, buffer, got, 0, (struct sockaddr *)&from, length);
        }
    }
}

// A server that listens late, tells its clients where they come from, and forks for each.
static void tell(const char *port) {
    struct sockaddr_in here = at("0.0.0.0", port), name, from;
    int listener = tcp(0), one = 1;
    socklen_t length = sizeof name;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    CHECK(!bind(listener, (struct sockaddr *)&here, sizeof here) && !listen(listener, 64));
    CHECK(!getsockname(listener, (struct sockaddr *)&name, &length));
    CHECK(name.sin_port == here.sin_port);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        length = sizeof from;
        int fd = accept(listener, (struct sockaddr *)&from, &length);
        CHECK(fd >= 0);
        if (fork()) {
            close(fd);
            continue;
        }
        length = sizeof name;
        CHECK(!getsockname(fd, (struct sockaddr *)&name, &length));
        dprintf(fd, "%s at %d\n", inet_ntoa(from.sin_addr), ntohs(name.sin_port));
        exit(0);
    }
}

static void signalled(int signal) { (void)signal; }

// A call that waits is interrupted, goes on by itself or not, as the handler has it; and its
// time limit is the socket's. Nobody answers at this address.
static void interrupted(struct sockaddr_in nowhere) {
    struct sigaction action = {.sa_handler = signalled};
    sigaction(SIGALRM, &action, NULL);
    int fd = tcp(0);
    alarm(1);
    CHECK(try_connect(fd, nowhere) == -1);
    printf("%s\n", strerrorname_np(errno));
    close(fd);
    struct timeval limit = {.tv_usec = 300000};
    fd = tcp(0);
    CHECK(!setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
    CHECK(try_connect(fd, nowhere) == -1);
    printf("%s\n", strerrorname_np(errno));
}

// Standard input is a socket of the host's.
static void inherited(struct sockaddr_in to) {
    CHECK(try_connect(0, to) == -1);
    printf("%s\n", strerrorname_np(errno));
}

static void bound_to_interface(struct sockaddr_in to) {
    int fd = tcp(0);
    struct timeval limit = {.tv_usec = 300000};
    CHECK(!setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
    CHECK(!setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
    CHECK(try_connect(fd, to) == -1);
    printf("%s\n", strerrorname_np(errno));
}

// Connections in a row, each with a byte there and back: how many a second.
static void rate(struct sockaddr_in to, int seconds) {
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    double passed;
    int count = 0;
    do {
        int fd = tcp(0);
        char byte = 'x';
        CHECK(!try_connect(fd, to) && write(fd, &byte, 1) == 1 && read(fd, &byte, 1) == 1);
        close(fd);
        count++;
        clock_gettime(CLOCK_MONOTONIC, &now);
        passed = now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9;
    } while (passed < seconds);
    printf("%.0f\n", count / passed);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    const char *verb = argc > 1 ? argv[1] : "";
    if (!strcmp(verb, "serve")) serve(argv[2], argv[3]);
    if (!strcmp(verb, "tell")) tell(argv[2]);
    if (!strcmp(verb, "own")) own_loopback(argv[2]), puts("ok"), exit(0);
    if (!strcmp(verb, "refuses")) refuses(argv[2], argv[3]), puts("ok"), exit(0);
    if (argc < 4) exit(2);
    struct sockaddr_in to = at(argv[2], argv[3]);
    if (!strcmp(verb, "connects")) connects(to), does_not_wait(to), refused(at(argv[2], argv[4]), to);
    else if (!strcmp(verb, "datagrams")) datagrams(to);
    else if (!strcmp(verb, "many")) many(to, atoi(argv[4]));
    else if (!strcmp(verb, "interrupted")) interrupted(to);
    else if (!strcmp(verb, "inherited")) inherited(to);
    else if (!strcmp(verb, "bound")) bound_to_interface(to);
    else if (!strcmp(verb, "rate")) rate(to, atoi(argv[4])), exit(0);
    else if (!strcmp(verb, "races") || !strcmp(verb, "swaps")) {
        good = to, bad = at(argv[4], argv[5]);
        !strcmp(verb, "races") ? races(3) : swaps(3);
    } else exit(2);
    puts("ok");
}
