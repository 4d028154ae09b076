// Request a delivery over HTTP, with the standard library.
//
//	echo '{"total": 42}' | DELIVERY_URL=... DELIVERY_TOKEN=... go run ./publish acme orders invoice.paid [ID]
//
// The request is repeated with its id until it is accepted. The id is stored once.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// Delivery is one payload for one destination. ID is your event's id, or a random one.
type Delivery struct {
	Tenant, Destination, EventType, ID string
	Payload                            json.RawMessage
}

var client = &http.Client{Timeout: 10 * time.Second}

// Deliver returns nil once the delivery is stored.
func Deliver(url, token string, delivery Delivery) error {
	body, err := json.Marshal(map[string]any{
		"destination": delivery.Destination, "event_type": delivery.EventType, "payload": delivery.Payload,
	})
	if err != nil {
		return err
	}
	for attempt := 0; attempt < 8; attempt++ {
		wait := min(250*time.Millisecond<<attempt, 30*time.Second)
		again, after, failed := post(url+"/v1/tenants/"+delivery.Tenant+"/deliveries", token, delivery.ID, body)
		if failed == nil || !again {
			return failed
		}
		err = failed
		time.Sleep(max(wait, after))
	}
	return fmt.Errorf("not accepted: %w", err)
}

// post sends the request once. It returns whether to repeat it, and the shortest wait before.
func post(url, token, id string, body []byte) (again bool, after time.Duration, err error) {
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return false, 0, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", id)
	answer, err := client.Do(request)
	if err != nil {
		return true, 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusAccepted {
		return false, 0, nil
	}
	problem, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
	seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
	again = answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode >= 500
	return again, time.Duration(seconds) * time.Second, fmt.Errorf("%d %s", answer.StatusCode, problem)
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "publish TENANT DESTINATION EVENT_TYPE [ID] < payload.json")
		os.Exit(2)
	}
	payload, err := io.ReadAll(os.Stdin)
	delivery := Delivery{Tenant: os.Args[1], Destination: os.Args[2], EventType: os.Args[3], Payload: payload}
	if len(os.Args) > 4 {
		delivery.ID = os.Args[4]
	} else {
		random := make([]byte, 16)
		rand.Read(random)
		delivery.ID = hex.EncodeToString(random)
	}
	if err == nil {
		err = Deliver(os.Getenv("DELIVERY_URL"), os.Getenv("DELIVERY_TOKEN"), delivery)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(delivery.ID)
}
