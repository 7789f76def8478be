package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	yeta "yeta-gateway.example/calls/gen/yeta/v1"
)

func watch(ctx context.Context, conn *grpc.ClientConn) error {
	request, err := callOutRequest(ctx, conn)
	if err != nil {
		return err
	}
	outbound, calls := yeta.NewOutboundServiceClient(conn), yeta.NewCallServiceClient(conn)
	// README:begin
	called, err := callOut(ctx, outbound, request)
	if err != nil {
		return err
	}
	fmt.Println("called:", called.TaskDataIds)
	results := map[string]*yeta.Call{}
	for len(results) < len(called.TaskDataIds) {
		stream, err := calls.WatchCalls(ctx, &yeta.WatchCallsRequest{
			TaskDataIds: called.TaskDataIds,
			PushCursor:  called.PushCursor, // from here on nothing of these calls is missed
		})
		for err == nil {
			var response *yeta.WatchCallsResponse
			if response, err = stream.Recv(); err == nil {
				results[response.Call.TaskDataId] = response.Call
			}
		}
		if status.Code(err) == codes.Unavailable {
			time.Sleep(time.Second) // the gateway restarts; then we ask again
		} else if err != io.EOF { // which says that each row has had its call
			return err
		}
	}
	// README:end
	for row, call := range results {
		fmt.Println("done:", row, state(call), outcome(call),
			len(call.GetDialog().GetDialog()), "turns", call.GetVoice().GetAbsoluteUrl())
	}
	return nil
}

// README:begin call_out
func callOut(
	ctx context.Context, outbound yeta.OutboundServiceClient, request *yeta.CallOutRequest,
) (called *yeta.CallOutResponse, err error) {
	request.RequestId = rand.Text() // keep it: under it, nobody is called twice
	for range 30 {
		called, err = outbound.CallOut(ctx, request)
		if status.Code(err) != codes.Unavailable {
			break
		}
		time.Sleep(time.Second) // the gateway restarts, or the platform is away; then we ask again
	}
	return called, err
}

// README:end call_out

func state(call *yeta.Call) string {
	return strings.TrimPrefix(call.State.String(), "CALL_STATE_")
}

func outcome(call *yeta.Call) string {
	return strings.TrimPrefix(call.Outcome.String(), "CALL_OUTCOME_")
}
