// Listening: the same for the three servers of Boost.Asio.
#pragma once

#include <boost/asio.hpp>
#include <iostream>

inline boost::asio::ip::tcp::acceptor listen_anywhere(boost::asio::io_context& context) {
    using boost::asio::ip::tcp;
    tcp::endpoint any_port{boost::asio::ip::address_v4::loopback(), 0};
    tcp::acceptor acceptor{context, any_port.protocol()};
    acceptor.set_option(tcp::no_delay{true});  // connections inherit it
    acceptor.bind(any_port);
    acceptor.listen(4096);
    std::cout << "listening on " << acceptor.local_endpoint() << std::endl;
    return acceptor;
}
