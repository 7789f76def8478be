// Command calls calls two numbers through yeta-gateway and prints what comes
// back of the calls.
//
//	go generate && go run . [ADDRESS]
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	yeta "yeta-gateway.example/calls/gen/yeta/v1"
)

//go:generate buf generate

var rows = []*yeta.Row{
	{Values: []string{"13000000001", "张先生"}},
	{Values: []string{"13000000002", "王女士"}},
}

func main() {
	address := "localhost:50051"
	if fromEnv := os.Getenv("YETA_GATEWAY"); fromEnv != "" {
		address = fromEnv
	}
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if err := run(context.Background(), address); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, address string) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()

	config, err := yeta.NewConfigServiceClient(conn).QueryConfig(ctx, &yeta.QueryConfigRequest{})
	if err != nil {
		return err
	}
	for _, robot := range config.Robots {
		for _, line := range config.Lines {
			if robot.RobotId == "719" && line.Status == yeta.LineStatus_LINE_STATUS_IDLE {
				return call(ctx, conn, robot, line)
			}
		}
	}
	return fmt.Errorf("no idle line, or no robot 719")
}

func call(ctx context.Context, conn *grpc.ClientConn, robot *yeta.Robot, line *yeta.Line) error {
	// README:begin
	called, err := yeta.NewOutboundServiceClient(conn).CallOut(ctx, &yeta.CallOutRequest{
		RobotId: robot.RobotId, LineNum: line.LineNum, CallColumn: robot.CallColumn, CallList: rows,
	})
	if err != nil {
		return err
	}
	pushes, calls := yeta.NewPushServiceClient(conn), newCalls(called.TaskDataIds)
	cursor := called.PushCursor // a stream from here misses nothing of these calls
	for !calls.complete() {
		stream, err := pushes.SubscribePushes(ctx, &yeta.SubscribePushesRequest{
			Start:  &yeta.SubscribePushesRequest_Cursor{Cursor: cursor},
			Filter: &yeta.PushFilter{TaskDataIds: called.TaskDataIds},
		})
		for err == nil && !calls.complete() {
			var response *yeta.SubscribePushesResponse
			if response, err = stream.Recv(); err == nil {
				cursor = calls.take(response) // of the event or the progress: keep it
			}
		}
		if err != nil && status.Code(err) != codes.Unavailable {
			return err
		} else if err != nil {
			time.Sleep(time.Second) // the gateway restarts; then we go on from the cursor
		}
	}
	// README:end
	return nil
}

// calls knows what is still to come of each call: two records, and if it was
// answered a recording and a dialog. They come in any order.
type calls struct {
	pushes   map[string]int
	answered map[string]bool
}

func newCalls(taskDataIDs []string) *calls {
	c := &calls{pushes: map[string]int{}, answered: map[string]bool{}}
	for _, id := range taskDataIDs {
		c.pushes[id] = 0
	}
	fmt.Println("called:", taskDataIDs)
	return c
}

func (c *calls) complete() bool {
	for id, pushes := range c.pushes {
		if pushes < 2 || c.answered[id] && pushes < 4 {
			return false
		}
	}
	return true
}

// take prints an event, and returns the cursor to go on from.
func (c *calls) take(response *yeta.SubscribePushesResponse) string {
	event := response.GetEvent()
	if event == nil {
		return response.GetProgress().GetCursor()
	}
	switch push := event.Payload.(type) {
	case *yeta.PushEvent_CallRecord:
		record := push.CallRecord
		fmt.Println("call record", record.Variant, record.TaskResultDesc, record.GetDurationCall(), "s")
		c.count(record.TaskDataId, record.GetTimeAnswer() > 0)
	case *yeta.PushEvent_Voice:
		fmt.Println("recording  ", push.Voice.AbsoluteUrl, push.Voice.GetDuration(), "s")
		c.count(push.Voice.TaskDataId, true)
	case *yeta.PushEvent_Dialog:
		for _, turn := range push.Dialog.Dialog {
			text := turn.TextMan
			if text == "" {
				text = turn.TextRobot
			}
			fmt.Printf("dialog      %s: %s\n", turn.RoleCode, text)
		}
		c.count(push.Dialog.TaskDataId, true)
	}
	return event.Cursor
}

func (c *calls) count(taskDataID string, answered bool) {
	c.pushes[taskDataID]++
	c.answered[taskDataID] = c.answered[taskDataID] || answered
}
