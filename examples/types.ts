// Made from the catalog by `make types`, laid out as `supabase gen types typescript` does.

export type Json =
  | string
  | number
  | boolean
  | null
  | { [key: string]: Json | undefined }
  | Json[]

export type Database = {
  public: {
    Tables: {
      generation_jobs: {
        Row: {
          attempt: number
          base: string | null
          cache: boolean
          cancel_code: string | null
          cancel_requested_at: string | null
          clip_skip: number | null
          control_end: number | null
          control_from: string | null
          control_kind: string | null
          control_path: string | null
          control_scale: number | null
          control_start: number | null
          created_at: string
          error: string | null
          error_code: string | null
          failures: number
          fingerprint: string | null
          finished_at: string | null
          gpu_seconds: number
          guidance: number | null
          guides: string[] | null
          height: number | null
          id: string
          lora_scales: number[] | null
          max_failures: number
          max_runtime: string | null
          metrics: Json | null
          model_ids: string[] | null
          negative_prompt: string | null
          num_images: number
          output_format: string
          owner_id: string | null
          phase: string | null
          pod_id: string | null
          preset: Json | null
          preset_id: string | null
          priority: number
          progress: number
          prompt: string
          quality: number
          reference_paths: string[] | null
          reference_scale: number | null
          reference_urls: string[] | null
          result: Json | null
          run_after: string | null
          sampler: string | null
          seed: number | null
          started_at: string | null
          status: string
          steps: number | null
          subject_id: string | null
          upscale: number
          width: number | null
        }
        Insert: {
          attempt?: number
          base?: string | null
          cache?: boolean
          cancel_code?: string | null
          cancel_requested_at?: string | null
          clip_skip?: number | null
          control_end?: number | null
          control_from?: string | null
          control_kind?: string | null
          control_path?: string | null
          control_scale?: number | null
          control_start?: number | null
          created_at?: string
          error?: string | null
          error_code?: string | null
          failures?: number
          fingerprint?: string | null
          finished_at?: string | null
          gpu_seconds?: number
          guidance?: number | null
          guides?: string[] | null
          height?: number | null
          id?: string
          lora_scales?: number[] | null
          max_failures?: number
          max_runtime?: string | null
          metrics?: Json | null
          model_ids?: string[] | null
          negative_prompt?: string | null
          num_images?: number
          output_format?: string
          owner_id?: string | null
          phase?: string | null
          pod_id?: string | null
          preset?: Json | null
          preset_id?: string | null
          priority?: number
          progress?: number
          prompt?: string
          quality?: number
          reference_paths?: string[] | null
          reference_scale?: number | null
          reference_urls?: string[] | null
          result?: Json | null
          run_after?: string | null
          sampler?: string | null
          seed?: number | null
          started_at?: string | null
          status?: string
          steps?: number | null
          subject_id?: string | null
          upscale?: number
          width?: number | null
        }
        Update: {
          attempt?: number
          base?: string | null
          cache?: boolean
          cancel_code?: string | null
          cancel_requested_at?: string | null
          clip_skip?: number | null
          control_end?: number | null
          control_from?: string | null
          control_kind?: string | null
          control_path?: string | null
          control_scale?: number | null
          control_start?: number | null
          created_at?: string
          error?: string | null
          error_code?: string | null
          failures?: number
          fingerprint?: string | null
          finished_at?: string | null
          gpu_seconds?: number
          guidance?: number | null
          guides?: string[] | null
          height?: number | null
          id?: string
          lora_scales?: number[] | null
          max_failures?: number
          max_runtime?: string | null
          metrics?: Json | null
          model_ids?: string[] | null
          negative_prompt?: string | null
          num_images?: number
          output_format?: string
          owner_id?: string | null
          phase?: string | null
          pod_id?: string | null
          preset?: Json | null
          preset_id?: string | null
          priority?: number
          progress?: number
          prompt?: string
          quality?: number
          reference_paths?: string[] | null
          reference_scale?: number | null
          reference_urls?: string[] | null
          result?: Json | null
          run_after?: string | null
          sampler?: string | null
          seed?: number | null
          started_at?: string | null
          status?: string
          steps?: number | null
          subject_id?: string | null
          upscale?: number
          width?: number | null
        }
        Relationships: [
          {
            foreignKeyName: "generation_jobs_subject_id_fkey"
            columns: ["subject_id"]
            isOneToOne: false
            referencedRelation: "subjects"
            referencedColumns: ["id"]
          },
        ]
      }
      mesh_jobs: {
        Row: {
          attempt: number
          base: string | null
          cancel_code: string | null
          cancel_requested_at: string | null
          created_at: string
          error: string | null
          error_code: string | null
          failures: number
          fingerprint: string | null
          finished_at: string | null
          format: string
          gpu_seconds: number
          guides: string[] | null
          id: string
          image_paths: string[] | null
          image_urls: string[] | null
          max_faces: number | null
          max_failures: number
          max_runtime: string | null
          metadata: Json
          metrics: Json | null
          owner_id: string | null
          phase: string | null
          pod_id: string | null
          preset: Json | null
          priority: number
          progress: number
          quality: string
          result: Json | null
          run_after: string | null
          started_at: string | null
          status: string
          subject_id: string | null
          texture: string
        }
        Insert: {
          attempt?: number
          base?: string | null
          cancel_code?: string | null
          cancel_requested_at?: string | null
          created_at?: string
          error?: string | null
          error_code?: string | null
          failures?: number
          fingerprint?: string | null
          finished_at?: string | null
          format?: string
          gpu_seconds?: number
          guides?: string[] | null
          id?: string
          image_paths?: string[] | null
          image_urls?: string[] | null
          max_faces?: number | null
          max_failures?: number
          max_runtime?: string | null
          metadata?: Json
          metrics?: Json | null
          owner_id?: string | null
          phase?: string | null
          pod_id?: string | null
          preset?: Json | null
          priority?: number
          progress?: number
          quality?: string
          result?: Json | null
          run_after?: string | null
          started_at?: string | null
          status?: string
          subject_id?: string | null
          texture?: string
        }
        Update: {
          attempt?: number
          base?: string | null
          cancel_code?: string | null
          cancel_requested_at?: string | null
          created_at?: string
          error?: string | null
          error_code?: string | null
          failures?: number
          fingerprint?: string | null
          finished_at?: string | null
          format?: string
          gpu_seconds?: number
          guides?: string[] | null
          id?: string
          image_paths?: string[] | null
          image_urls?: string[] | null
          max_faces?: number | null
          max_failures?: number
          max_runtime?: string | null
          metadata?: Json
          metrics?: Json | null
          owner_id?: string | null
          phase?: string | null
          pod_id?: string | null
          preset?: Json | null
          priority?: number
          progress?: number
          quality?: string
          result?: Json | null
          run_after?: string | null
          started_at?: string | null
          status?: string
          subject_id?: string | null
          texture?: string
        }
        Relationships: [
          {
            foreignKeyName: "mesh_jobs_subject_id_fkey"
            columns: ["subject_id"]
            isOneToOne: false
            referencedRelation: "subjects"
            referencedColumns: ["id"]
          },
        ]
      }
      presets: {
        Row: {
          created_at: string
          id: string
          kind: string
          name: string
          negative_prompt: string | null
          owner_id: string | null
          prompt: string
          settings: Json
        }
        Insert: {
          created_at?: string
          id?: string
          kind: string
          name: string
          negative_prompt?: string | null
          owner_id?: string | null
          prompt?: string
          settings?: Json
        }
        Update: {
          created_at?: string
          id?: string
          kind?: string
          name?: string
          negative_prompt?: string | null
          owner_id?: string | null
          prompt?: string
          settings?: Json
        }
        Relationships: []
      }
      subject_photos: {
        Row: {
          caption: string | null
          created_at: string
          face: Json | null
          height: number | null
          id: string
          path: string
          phash: string | null
          prepared_path: string | null
          reason: string | null
          sha256: string | null
          status: string
          subject_id: string
          width: number | null
        }
        Insert: {
          caption?: string | null
          created_at?: string
          face?: Json | null
          height?: number | null
          id?: string
          path: string
          phash?: string | null
          prepared_path?: string | null
          reason?: string | null
          sha256?: string | null
          status?: string
          subject_id: string
          width?: number | null
        }
        Update: {
          caption?: string | null
          created_at?: string
          face?: Json | null
          height?: number | null
          id?: string
          path?: string
          phash?: string | null
          prepared_path?: string | null
          reason?: string | null
          sha256?: string | null
          status?: string
          subject_id?: string
          width?: number | null
        }
        Relationships: [
          {
            foreignKeyName: "subject_photos_subject_id_fkey"
            columns: ["subject_id"]
            isOneToOne: false
            referencedRelation: "subjects"
            referencedColumns: ["id"]
          },
        ]
      }
      subjects: {
        Row: {
          consent_expires_at: string | null
          consent_purposes: string[]
          consent_status: string
          created_at: string
          erased_at: string | null
          id: string
          name: string
          owner_id: string | null
          subject_is_adult: boolean
          trigger_word: string | null
        }
        Insert: {
          consent_expires_at?: string | null
          consent_purposes?: string[]
          consent_status?: string
          created_at?: string
          erased_at?: string | null
          id?: string
          name: string
          owner_id?: string | null
          subject_is_adult?: boolean
          trigger_word?: string | null
        }
        Update: {
          consent_expires_at?: string | null
          consent_purposes?: string[]
          consent_status?: string
          created_at?: string
          erased_at?: string | null
          id?: string
          name?: string
          owner_id?: string | null
          subject_is_adult?: boolean
          trigger_word?: string | null
        }
        Relationships: []
      }
      subjects_models: {
        Row: {
          base: string
          created_at: string
          family: string
          id: string
          job_id: string | null
          metrics: Json
          path: string
          rank: number
          retired_at: string | null
          sha256: string
          subject_id: string | null
          trigger_word: string | null
          version: number
        }
        Insert: {
          base: string
          created_at?: string
          family: string
          id?: string
          job_id?: string | null
          metrics?: Json
          path: string
          rank: number
          retired_at?: string | null
          sha256: string
          subject_id?: string | null
          trigger_word?: string | null
          version: number
        }
        Update: {
          base?: string
          created_at?: string
          family?: string
          id?: string
          job_id?: string | null
          metrics?: Json
          path?: string
          rank?: number
          retired_at?: string | null
          sha256?: string
          subject_id?: string | null
          trigger_word?: string | null
          version?: number
        }
        Relationships: [
          {
            foreignKeyName: "subjects_models_subject_id_fkey"
            columns: ["subject_id"]
            isOneToOne: false
            referencedRelation: "subjects"
            referencedColumns: ["id"]
          },
        ]
      }
      training_jobs: {
        Row: {
          attempt: number
          base: string | null
          cancel_code: string | null
          cancel_requested_at: string | null
          class_name: string | null
          created_at: string
          error: string | null
          error_code: string | null
          failures: number
          fingerprint: string | null
          finished_at: string | null
          gpu_seconds: number
          guides: string[] | null
          id: string
          learning_rate: number | null
          max_failures: number
          max_runtime: string | null
          metrics: Json | null
          owner_id: string | null
          phase: string | null
          pod_id: string | null
          preset: Json | null
          preset_id: string | null
          priority: number
          progress: number
          rank: number | null
          resolution: number | null
          result: Json | null
          run_after: string | null
          sample_paths: string[] | null
          seed: number | null
          started_at: string | null
          status: string
          steps: number | null
          subject_id: string | null
          trigger_word: string | null
        }
        Insert: {
          attempt?: number
          base?: string | null
          cancel_code?: string | null
          cancel_requested_at?: string | null
          class_name?: string | null
          created_at?: string
          error?: string | null
          error_code?: string | null
          failures?: number
          fingerprint?: string | null
          finished_at?: string | null
          gpu_seconds?: number
          guides?: string[] | null
          id?: string
          learning_rate?: number | null
          max_failures?: number
          max_runtime?: string | null
          metrics?: Json | null
          owner_id?: string | null
          phase?: string | null
          pod_id?: string | null
          preset?: Json | null
          preset_id?: string | null
          priority?: number
          progress?: number
          rank?: number | null
          resolution?: number | null
          result?: Json | null
          run_after?: string | null
          sample_paths?: string[] | null
          seed?: number | null
          started_at?: string | null
          status?: string
          steps?: number | null
          subject_id?: string | null
          trigger_word?: string | null
        }
        Update: {
          attempt?: number
          base?: string | null
          cancel_code?: string | null
          cancel_requested_at?: string | null
          class_name?: string | null
          created_at?: string
          error?: string | null
          error_code?: string | null
          failures?: number
          fingerprint?: string | null
          finished_at?: string | null
          gpu_seconds?: number
          guides?: string[] | null
          id?: string
          learning_rate?: number | null
          max_failures?: number
          max_runtime?: string | null
          metrics?: Json | null
          owner_id?: string | null
          phase?: string | null
          pod_id?: string | null
          preset?: Json | null
          preset_id?: string | null
          priority?: number
          progress?: number
          rank?: number | null
          resolution?: number | null
          result?: Json | null
          run_after?: string | null
          sample_paths?: string[] | null
          seed?: number | null
          started_at?: string | null
          status?: string
          steps?: number | null
          subject_id?: string | null
          trigger_word?: string | null
        }
        Relationships: [
          {
            foreignKeyName: "training_jobs_subject_id_fkey"
            columns: ["subject_id"]
            isOneToOne: false
            referencedRelation: "subjects"
            referencedColumns: ["id"]
          },
        ]
      }
    }
    Views: {
      [_ in never]: never
    }
    Functions: {
      cancel_job: { Args: { id: string; kind: string }; Returns: string }
      grant_consent: {
        Args: {
          adult?: boolean
          confirmed?: boolean
          evidence?: string
          expires_at?: string
          purposes?: string[]
          subject_id: string
        }
        Returns: undefined
      }
      reject_consent: {
        Args: { reason?: string; subject_id: string }
        Returns: undefined
      }
      retry_job: { Args: { id: string; kind: string }; Returns: string }
      revoke_consent: {
        Args: { reason?: string; subject_id: string }
        Returns: undefined
      }
    }
    Enums: {
      [_ in never]: never
    }
    CompositeTypes: {
      [_ in never]: never
    }
  }
}

type Public = Database["public"]

export type Tables<Name extends keyof Public["Tables"]> =
  Public["Tables"][Name]["Row"]

export type TablesInsert<Name extends keyof Public["Tables"]> =
  Public["Tables"][Name]["Insert"]

export type TablesUpdate<Name extends keyof Public["Tables"]> =
  Public["Tables"][Name]["Update"]
