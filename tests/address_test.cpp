// Address: what can be written down as one, and what cannot.
#include "test.h"

#include <copse/copse.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string>
#include <sys/un.h>

using namespace copse;

namespace {

using Family = Address::Family;

void check_round_trip(const char* text, Family family, uint16_t port, const char* host, int line) {
    Result<Address> parsed = Address::parse(text);
    if (!parsed || std::string(parsed->format().c_str()) != text || parsed->family() != family ||
        parsed->port() != port || std::string(parsed->host().c_str()) != host) {
        test::fail(__FILE__, line, text);
        fprintf(stderr, "    became \"%s\", host \"%s\", port %d: %s\n", parsed->format().c_str(),
                parsed->host().c_str(), int(parsed->port()), parsed.error.message());
    }
}
#define ROUND_TRIP(text, family, port, host) check_round_trip(text, family, port, host, __LINE__)

void check_refused(std::string_view text, Error error, int line) {
    Result<Address> parsed = Address::parse(text);
    if (parsed.error == error && parsed->size() == 0) return;
    test::fail(__FILE__, line, std::string(text).c_str());
    fprintf(stderr, "    became \"%s\": %s\n", parsed->format().c_str(), parsed.error.message());
}
#define REFUSED(text, error) check_refused(text, error, __LINE__)

}  // namespace

TEST(an_address_is_written_as_it_is_read) {
    ROUND_TRIP("127.0.0.1:80", Family::inet, 80, "127.0.0.1");
    ROUND_TRIP("0.0.0.0:0", Family::inet, 0, "0.0.0.0");
    ROUND_TRIP("255.255.255.255:65535", Family::inet, 65535, "255.255.255.255");
    ROUND_TRIP("[::1]:80", Family::inet6, 80, "::1");
    ROUND_TRIP("[::]:0", Family::inet6, 0, "::");
    ROUND_TRIP("[2001:db8::7]:65535", Family::inet6, 65535, "2001:db8::7");
    ROUND_TRIP("[::ffff:1.2.3.4]:1", Family::inet6, 1, "::ffff:1.2.3.4");
    ROUND_TRIP("[fe80::1%2]:80", Family::inet6, 80, "fe80::1%2");
    ROUND_TRIP("unix:/run/x", Family::unix_path, 0, "/run/x");
    ROUND_TRIP("unix:relative", Family::unix_path, 0, "relative");
    ROUND_TRIP("unix:/with:colon:80", Family::unix_path, 0, "/with:colon:80");
    ROUND_TRIP("unix:@abstract", Family::unix_path, 0, "@abstract");
}

TEST(what_can_be_written_in_several_ways_is_one_address) {
    auto address = [](const char* text) { return *Address::parse(text); };
    CHECK(address("localhost:80") == address("127.0.0.1:80"));
    CHECK(address("*:80") == address("0.0.0.0:80"));
    CHECK(address("[0:0::0:1]:80") == address("[::1]:80"));
    CHECK(address("1.2.3.4:00080") == address("1.2.3.4:80"));
    CHECK(!(address("1.2.3.4:80") == address("1.2.3.4:81")));
    CHECK(!(address("1.2.3.4:80") == address("1.2.3.5:80")));
    CHECK(!(address("[::1]:80") == address("127.0.0.1:80")));
    CHECK(!(address("[fe80::1%1]:80") == address("[fe80::1%2]:80")));
    CHECK(!(address("unix:/a") == address("unix:@a")));
    CHECK(!(address("unix:@a") == address("unix:@ab")));
    CHECK(Address{} == Address{});
    CHECK(!(Address{} == address("*:0")));
}

TEST(a_host_and_a_port_make_an_address) {
    auto written = [](const char* host, uint16_t port) {
        return std::string(Address::parse(host, port)->format().c_str());
    };
    CHECK(written("127.0.0.1", 80) == "127.0.0.1:80");
    CHECK(written("localhost", 0) == "127.0.0.1:0");
    CHECK(written("*", 65535) == "0.0.0.0:65535");
    CHECK(written("::1", 80) == "[::1]:80");
    CHECK(written("fe80::1%7", 80) == "[fe80::1%7]:80");
    CHECK_EQ(Address::parse("no.such.host", 80).error, Error::not_found);
    CHECK_EQ(Address::parse("", 80).error, Error::not_found);
    CHECK_EQ(Address::parse("[::1]", 80).error, Error::not_found);
    CHECK_EQ(Address::parse(std::string(1000, '1'), 80).error, Error::not_found);
    CHECK_EQ(Address::parse(std::string_view("127.0.0.1\0.evil", 15), 80).error, Error::not_found);
    CHECK_EQ(Address::parse(std::string_view("::1\0", 4), 80).error, Error::not_found);
    CHECK_EQ(Address::parse(std::string_view("*\0", 2), 80).error, Error::not_found);
}

TEST(garbage_is_no_address) {
    for (const char* text :
         {"", ":", "80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:+1",
          "127.0.0.1: 80", "127.0.0.1:80 ", " 127.0.0.1:80", "127.0.0.1:65536", "127.0.0.1:99999",
          "127.0.0.1:4294967376", "127.0.0.1:000080", "127.0.0.1:0x50", "127.0.0:80",
          "1.2.3.4.5:80", "256.1.1.1:80", "01.2.3.4:80", ":80", "**:80", "*", "localhost",
          "Localhost:80",
          "example.com:80", "::1:80", "[::1]", "[::1]80", "[::1:80", "::1]:80", "[]:80", "[:80",
          "[127.0.0.1]:80", "[*]:80", "[localhost]:80", "[::1]]:80", "[[::1]]:80", "[::g]:80",
          "[::1%]:80", "[::1%eth0]:80", "[::1%-1]:80", "[::1%1%1]:80", "[::1%99999999999]:80",
          "[:::1]:80", "unix", "unix:", "Unix:/x", "http://127.0.0.1:80"})
        REFUSED(text, Error::not_found);
    REFUSED(std::string_view("127.0.0.1\0:80", 13), Error::not_found);
    REFUSED(std::string_view("127.0.0.1:80\0", 13), Error::not_found);
    REFUSED(std::string_view("unix:/a\0b", 9), Error::not_found);
    REFUSED(std::string(100000, ':'), Error::not_found);
}

TEST(a_unix_path_may_be_as_long_as_the_kernel_takes) {
    const size_t room = sizeof(sockaddr_un::sun_path);
    std::string longest = "unix:/" + std::string(room - 2, 'x');
    ROUND_TRIP(longest.c_str(), Family::unix_path, 0, longest.c_str() + 5);
    REFUSED(longest + "x", Error::oversized);
    REFUSED("unix:/" + std::string(10000, 'x'), Error::oversized);
    REFUSED("unix:@" + std::string(10000, 'x'), Error::oversized);
}

TEST(an_abstract_name_has_the_bytes_that_were_written_and_no_more) {
    // To the kernel a zero byte at its end would be part of the name.
    constexpr size_t before = offsetof(sockaddr_un, sun_path);
    CHECK_EQ(Address::parse("unix:@name")->size(), uint32_t(before + 5));
    CHECK_EQ(Address::parse("unix:/name")->size(), uint32_t(before + 6));
}

TEST(no_address_says_so) {
    Address none;
    CHECK_EQ(int(none.family()), int(Family::none));
    CHECK_EQ(none.port(), 0);
    CHECK_EQ(none.size(), 0u);
    CHECK(std::string(none.format().c_str()).empty());
    CHECK(std::string(none.host().c_str()).empty());
    // What is no family of ours.
    none.raw()->sa_family = 200;
    none.setsize(20);
    CHECK_EQ(int(none.family()), int(Family::none));
    CHECK(std::string(none.format().c_str()).empty());
    none.setsize(1000000);
    CHECK_EQ(none.size(), uint32_t(Address::capacity));
}

TEST(the_peer_of_an_unnamed_unix_socket_is_nameless) {
    Address unnamed;
    unnamed.raw()->sa_family = AF_UNIX;
    unnamed.setsize(sizeof(sa_family_t));
    CHECK_EQ(int(unnamed.family()), int(Family::unix_path));
    CHECK(std::string(unnamed.format().c_str()).empty());
}

TEST(the_kernel_gets_it_in_network_order) {
    Address address = *Address::parse("1.2.3.4:258");
    auto* raw = reinterpret_cast<const sockaddr_in*>(address.raw());
    CHECK_EQ(raw->sin_port, htons(258));
    CHECK_EQ(raw->sin_addr.s_addr, htonl(0x01020304));
    CHECK_EQ(address.size(), uint32_t(sizeof(sockaddr_in)));
    Address six = *Address::parse("[fe80::1%3]:258");
    auto* raw6 = reinterpret_cast<const sockaddr_in6*>(six.raw());
    CHECK_EQ(raw6->sin6_port, htons(258));
    CHECK_EQ(raw6->sin6_scope_id, 3u);
    CHECK_EQ(raw6->sin6_addr.s6_addr[15], 1);
}
