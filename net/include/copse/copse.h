// copse: green threads, a poller and buffered sockets. All of it.
#pragma once

#include <copse/error.h>
#include <copse/time.h>
#include <copse/thread.h>
#include <copse/loop.h>
#include <copse/address.h>
#include <copse/socket.h>
#include <copse/server.h>
