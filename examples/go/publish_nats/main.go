// Request a delivery over NATS, with nats.go. This directory is a module of its own.
//
//	echo '{"total": 42}' | NATS_URL=... NATS_NKEY_FILE=acme.nk go run . acme orders invoice.paid [ID]
//
// The request is repeated with its id until it is accepted. The id is stored once.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Delivery is one payload for one destination. ID is your event's id, or a random one.
type Delivery struct {
	Tenant, Destination, EventType, ID string
	Payload                            json.RawMessage
}

// Deliver returns nil once the delivery is stored.
func Deliver(client *nats.Conn, delivery Delivery) error {
	body, err := json.Marshal(map[string]any{
		"destination": delivery.Destination, "event_type": delivery.EventType, "payload": delivery.Payload,
	})
	if err != nil {
		return err
	}
	for attempt := 0; attempt < 8; attempt++ {
		wait := min(250*time.Millisecond<<attempt, 30*time.Second)
		again, after, failed := request(client, delivery.Tenant, delivery.ID, body)
		if failed == nil || !again {
			return failed
		}
		err = failed
		time.Sleep(max(wait, after))
	}
	return fmt.Errorf("not accepted: %w", err)
}

// request sends the request once. It returns whether to repeat it, and the shortest wait before.
func request(client *nats.Conn, tenant, id string, body []byte) (again bool, after time.Duration, err error) {
	message := nats.NewMsg("oneprotect.api.v1." + tenant + ".deliveries")
	message.Header.Set("Idempotency-Key", id)
	message.Data = body
	answer, err := client.RequestMsg(message, 10*time.Second)
	if err != nil {
		if refused := client.LastError(); errors.Is(refused, nats.ErrPermissionViolation) {
			return false, 0, refused
		}
		return true, 0, err
	}
	code := answer.Header.Get("Nats-Service-Error-Code")
	if code == "" {
		return false, 0, nil
	}
	status, _ := strconv.Atoi(code)
	seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
	return status == 429 || status >= 500, time.Duration(seconds) * time.Second, fmt.Errorf("%s %s", code, answer.Data)
}

func connect() (*nats.Conn, error) {
	options := []nats.Option{nats.MaxReconnects(-1)}
	if seed := os.Getenv("NATS_NKEY_FILE"); seed != "" {
		key, err := nats.NkeyOptionFromSeed(seed)
		if err != nil {
			return nil, err
		}
		options = append(options, key)
	}
	if ca := os.Getenv("NATS_CA_FILE"); ca != "" {
		options = append(options, nats.RootCAs(ca))
	}
	return nats.Connect(os.Getenv("NATS_URL"), options...)
}

func run(arguments []string) error {
	payload, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	delivery := Delivery{Tenant: arguments[0], Destination: arguments[1], EventType: arguments[2], Payload: payload}
	if len(arguments) > 3 {
		delivery.ID = arguments[3]
	} else {
		random := make([]byte, 16)
		rand.Read(random)
		delivery.ID = hex.EncodeToString(random)
	}
	client, err := connect()
	if err != nil {
		return err
	}
	defer client.Close()
	if err := Deliver(client, delivery); err != nil {
		return err
	}
	fmt.Println(delivery.ID)
	return nil
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "publish_nats TENANT DESTINATION EVENT_TYPE [ID] < payload.json")
		os.Exit(2)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
