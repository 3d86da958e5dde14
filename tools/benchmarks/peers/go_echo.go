// Go: an echo server, a goroutine a connection; or one of HTTP, by net/http.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
)

func echo(peer net.Conn) {
	defer peer.Close()
	var bytes [4096]byte
	for {
		n, err := peer.Read(bytes[:])
		if err != nil {
			return
		}
		if _, err = peer.Write(bytes[:n]); err != nil {
			return
		}
	}
}

func hello(answer http.ResponseWriter, _ *http.Request) {
	answer.Header().Set("Content-Type", "text/plain")
	io.WriteString(answer, "Hello, World!")
}

func main() {
	runtime.GOMAXPROCS(1) // the others are one thread, too
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr())
	if len(os.Args) > 1 && os.Args[1] == "http" {
		log.Fatal(http.Serve(listener, http.HandlerFunc(hello)))
	}
	for {
		peer, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go echo(peer)
	}
}
