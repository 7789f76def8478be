package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	yeta "yeta-gateway.example/calls/gen/yeta/v1"
)

const subscription = "call-results"

// worker processes calls until ctx ends; then it finishes the call at hand,
// acknowledges what it has finished, and returns.
func worker(ctx context.Context, conn *grpc.ClientConn) error {
	for ctx.Err() == nil {
		err := work(ctx, yeta.NewPushServiceClient(conn))
		if status.Code(err) == codes.Unavailable {
			time.Sleep(time.Second) // the gateway restarts; what is not acknowledged comes again
		} else if err != nil {
			return err
		}
	}
	fmt.Println("stopped")
	return nil
}

// handle is what the service is there for. A call may come again: after a
// crash, or with more known of it and a higher revision. Store it by its
// call_uuid, and let the highest revision win.
func handle(call *yeta.Call) error {
	if call.CallRecord == nil {
		return errors.New("the call has no record")
	}
	fmt.Println("handled:", call.TaskDataId, state(call), outcome(call))
	return nil
}

// README:begin
func work(ctx context.Context, pushes yeta.PushServiceClient) error {
	streaming, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end() // once everything that was handled is acknowledged
	stream, err := pushes.SubscribePushes(streaming, &yeta.SubscribePushesRequest{
		Subscription: subscription, // the same in all replicas of the service: they share it
		Start: &yeta.SubscribePushesRequest_Position{
			Position: yeta.Position_POSITION_EARLIEST, // where it begins when it is new
		},
		Filter: &yeta.PushFilter{ // one event for each call
			Kinds: []yeta.PushKind{yeta.PushKind_PUSH_KIND_CALL},
		},
		MaxInFlight: proto.Uint32(64), // what is handled well within the ack deadline, 30 s
	})
	if err != nil {
		return err
	}
	events, broken := receive(stream)
	handled := make(chan string, 64)
	acknowledged := acknowledge(pushes, handled)
	defer func() { close(handled); <-acknowledged }()
	for {
		select {
		case event := <-events:
			if err := handle(event.GetCall()); err == nil {
				handled <- event.AckId
			} else if err := refuse(pushes, event, err.Error()); err != nil {
				return err
			}
		case err := <-broken:
			return err
		case <-ctx.Done(): // SIGTERM
			return nil
		}
	}
}

// acknowledge sends in one request whatever was handled during the one before.
func acknowledge(pushes yeta.PushServiceClient, handled <-chan string) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for id := range handled {
			ids := []string{id}
			for len(handled) > 0 {
				ids = append(ids, <-handled)
			}
			request := &yeta.AckPushesRequest{Subscription: subscription, AckIds: ids}
			if _, err := pushes.AckPushes(context.Background(), request); err != nil {
				log.Printf("%d calls not acknowledged, they come again: %v", len(ids), err)
			}
		}
	}()
	return done
}

// README:end

// refuse has an event delivered again after a while; after ten attempts it is
// set aside as a dead letter, with the reason.
func refuse(pushes yeta.PushServiceClient, event *yeta.PushEvent, reason string) error {
	_, err := pushes.NackPushes(context.Background(), &yeta.NackPushesRequest{
		Subscription: subscription,
		AckIds:       []string{event.AckId},
		Delay:        durationpb.New(time.Second),
		Reason:       reason,
	})
	return err
}

// receive takes events from a stream, until it ends with an error.
func receive(
	stream grpc.ServerStreamingClient[yeta.SubscribePushesResponse],
) (<-chan *yeta.PushEvent, <-chan error) {
	events, broken := make(chan *yeta.PushEvent), make(chan error, 1)
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				broken <- err
				return
			}
			if event := response.GetEvent(); event != nil { // otherwise it tells the progress
				select {
				case events <- event:
				case <-stream.Context().Done():
				}
			}
		}
	}()
	return events, broken
}
