// golang.org/x/oauth2: what a program keeps of `Config.Exchange`, as JSON. Beside each file is the expiry in
// nanoseconds, because the clock of a Go program cannot be faked.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/oauth2"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func exchanged(answer string) *oauth2.Token {
	server := httptest.NewServer(http.HandlerFunc(func(response http.ResponseWriter, _ *http.Request) {
		response.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(response, answer)
		check(err)
	}))
	defer server.Close()
	config := oauth2.Config{ClientID: "client", Endpoint: oauth2.Endpoint{TokenURL: server.URL}}
	token, err := config.Exchange(context.Background(), "code")
	check(err)
	return token
}

func write(name string, token *oauth2.Token) {
	text, err := json.Marshal(token)
	check(err)
	path := filepath.Join(os.Args[1], name)
	check(os.WriteFile(path, text, 0o600))
	if !token.Expiry.IsZero() {
		check(os.WriteFile(path+".expiry", []byte(fmt.Sprint(token.Expiry.UnixNano())), 0o600))
	}
}

func main() {
	time.Local = time.FixedZone("", 5*3600+1800)
	write("exchanged", exchanged(
		`{"access_token":"access","token_type":"Bearer","expires_in":3600,"refresh_token":"rotated","scope":"read write"}`,
	))
	write("no-expiry", exchanged(`{"access_token":"access","token_type":"Bearer"}`))
	write("only-refresh-token", &oauth2.Token{RefreshToken: "first"})
}
