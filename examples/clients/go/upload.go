package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	yeta "yeta-gateway.example/calls/gen/yeta/v1"
)

// upload submits the rows of a CSV file, to be called at once, and tells what
// became of each. The first column is the row's own id, the second its phone
// number. Run it again with the same file, also after it broke off: what was
// submitted before is not submitted again.
func upload(ctx context.Context, conn *grpc.ClientConn) error {
	file := filepath.Join("..", "rows.csv")
	if len(os.Args) > 3 {
		file = os.Args[3]
	}
	columns, rows, err := table(file)
	if err != nil {
		return err
	}
	header := &yeta.UploadHeader{
		// The same for the same list, so that it can be sent again.
		UploadId: strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)),
		// Part of what an upload is: the same whenever it is taken up again.
		Target: &yeta.UploadHeader_Direct{
			Direct: &yeta.DirectCall{RobotId: "719", LineNum: "055169101408"},
		},
		CallColumn: columns,
	}
	results, err := submitAll(ctx, yeta.NewOutboundServiceClient(conn), header, rows)
	if err != nil {
		return err
	}
	var refused, unknown, before int
	for key, row := range results {
		if row.KnownBefore {
			before++
		}
		if row.GetError() == nil {
			continue
		}
		if row.GetError().Reason == "OUTCOME_UNKNOWN" {
			unknown++
		} else {
			refused++
		}
		fmt.Printf("row %s: %s %s\n", key, row.GetError().Reason, row.GetError().Message)
	}
	accepted := len(results) - refused - unknown
	fmt.Printf("done: %d accepted, %d refused, %d unknown; %d known before\n",
		accepted, refused, unknown, before)
	return nil
}

// table reads a file's columns and rows, without the heading of the rows' ids.
func table(file string) ([]string, []*yeta.UploadRow, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	lines, err := csv.NewReader(bytes.NewReader(content)).ReadAll()
	if err != nil {
		return nil, nil, err
	}
	if len(lines) == 0 {
		return nil, nil, errors.New(file + " is empty")
	}
	var rows []*yeta.UploadRow
	for _, line := range lines[1:] {
		rows = append(rows, &yeta.UploadRow{RowKey: line[0], Values: line[1:]})
	}
	return lines[0][1:], rows, nil
}

type results map[string]*yeta.UploadRowResult // by row_key

// README:begin
func submitAll(
	ctx context.Context, outbound yeta.OutboundServiceClient,
	header *yeta.UploadHeader, rows []*yeta.UploadRow,
) (results, error) {
	known := results{}
	for {
		err := submit(ctx, outbound, header, rows, known)
		if status.Code(err) != codes.Unavailable {
			return known, err
		}
		time.Sleep(time.Second) // the gateway restarts; sent again, only the rest goes out
	}
}

func submit(
	ctx context.Context, outbound yeta.OutboundServiceClient,
	header *yeta.UploadHeader, rows []*yeta.UploadRow, known results,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends send, too
	stream, err := outbound.SubmitRows(ctx)
	if err != nil {
		return err
	}
	go send(stream, header, rows) // reading goes on meanwhile
	for {
		response, err := stream.Recv()
		if err == io.EOF { // each row has its result
			return nil
		} else if err != nil {
			return err
		}
		if row := response.GetRow(); row != nil { // otherwise it tells the progress
			known[row.RowKey] = row
		}
	}
}

func send(
	stream grpc.BidiStreamingClient[yeta.SubmitRowsRequest, yeta.SubmitRowsResponse],
	header *yeta.UploadHeader, rows []*yeta.UploadRow,
) {
	message := &yeta.SubmitRowsRequest{Message: &yeta.SubmitRowsRequest_Header{Header: header}}
	if stream.Send(message) != nil {
		return // Recv tells why
	}
	for some := range slices.Chunk(rows, 500) {
		message := &yeta.SubmitRowsRequest{
			Message: &yeta.SubmitRowsRequest_Rows{Rows: &yeta.UploadRows{Rows: some}},
		}
		if stream.Send(message) != nil {
			return
		}
	}
	stream.CloseSend()
}

// README:end
