// Boost.Asio with callbacks: an echo server, an object a connection.
#include "asio_listen.h"

#include <array>
#include <memory>

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

class Session : public std::enable_shared_from_this<Session> {
  public:
    explicit Session(tcp::socket peer) : peer_{std::move(peer)} {}

    void read() {
        peer_.async_read_some(asio::buffer(bytes_),
                              [self = shared_from_this()](error_code error, size_t got) {
                                  if (!error) self->write(got);
                              });
    }

  private:
    void write(size_t size) {
        asio::async_write(peer_, asio::buffer(bytes_, size),
                          [self = shared_from_this()](error_code error, size_t) {
                              if (!error) self->read();
                          });
    }

    tcp::socket peer_;
    std::array<char, 4096> bytes_;
};

void accept(tcp::acceptor& acceptor) {
    acceptor.async_accept([&](error_code error, tcp::socket peer) {
        if (!error) std::make_shared<Session>(std::move(peer))->read();
        accept(acceptor);
    });
}

int main() {
    asio::io_context context{1};
    tcp::acceptor acceptor = listen_anywhere(context);
    accept(acceptor);
    context.run();
}
