package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	yeta "yeta-gateway.example/calls/gen/yeta/v1"
)

func reader(ctx context.Context, conn *grpc.ClientConn) error {
	pushes := yeta.NewPushServiceClient(conn)
	// README:begin
	request := &yeta.SubscribePushesRequest{
		Start: &yeta.SubscribePushesRequest_Position{Position: yeta.Position_POSITION_EARLIEST},
	}
	for {
		stream, err := pushes.SubscribePushes(ctx, request)
		for err == nil {
			var response *yeta.SubscribePushesResponse
			if response, err = stream.Recv(); err == nil {
				// The place to go on from, after a restart too: keep it with what was stored.
				request.Start = &yeta.SubscribePushesRequest_Cursor{Cursor: take(response)}
			}
		}
		if status.Code(err) != codes.Unavailable {
			return err
		}
		time.Sleep(time.Second) // the gateway restarts; then we go on from the cursor
	}
	// README:end
}

// take prints an event, and returns the cursor to go on from.
func take(response *yeta.SubscribePushesResponse) string {
	event := response.GetEvent()
	if event == nil {
		return response.GetProgress().GetCursor()
	}
	switch push := event.Payload.(type) {
	case *yeta.PushEvent_CallRecord:
		record := push.CallRecord
		fmt.Println("call record", record.CallUuid, record.TaskResultDesc, record.GetDurationCall(), "s")
	case *yeta.PushEvent_Voice:
		fmt.Println("recording  ", push.Voice.CallUuid, push.Voice.AbsoluteUrl)
	case *yeta.PushEvent_Dialog:
		fmt.Println("dialog     ", push.Dialog.CallUuid, len(push.Dialog.Dialog), "turns")
	case *yeta.PushEvent_Call:
		fmt.Println("call       ", push.Call.CallUuid, "revision", push.Call.Revision)
	case *yeta.PushEvent_Unrecognized:
		fmt.Println("other push ", push.Unrecognized.Module, push.Unrecognized.Reason)
	}
	return event.Cursor
}
